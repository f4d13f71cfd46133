"""Rows of one text each, with their labels and a reference model's log-probabilities."""
# R rows, S tokens of a sample; a row has S + 1

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.reference_logs import logs
from jaxneox.data.samples import IndexedSamples, Rows


class TextRows(NamedTuple):
    """Rows of texts.

    Attributes:
        tokens: [R, S + 1].
        labelled: float32 [R, S], 1 where a label counts.
        reference: float32 [R, S], the labels' log-probabilities; None if there are none.
    """

    tokens: NDArray[Any]
    labelled: NDArray[np.float32]
    reference: NDArray[np.float32] | None


class WholeTexts:
    """Reads one side of pairs, or rated texts.

    Args:
        samples: where the rows are read.
        reference: of the same index, the log-probabilities; None if there are none.
        masked_token: has no loss where it is the input; None is none.
        fill_counts: whether what fills up a row counts where there are no labels, as in NeoX.
    """

    def __init__(
        self,
        samples: IndexedSamples,
        reference: IndexedSamples | None,
        *,
        masked_token: int | None,
        fill_counts: bool,
    ) -> None:
        self.samples, self.reference = samples, reference
        self._masked_token, self._fill_counts = masked_token, fill_counts

    def read(self, numbers: NDArray[np.int64]) -> TextRows:
        """Read the rows of these samples.

        Raises:
            UserError: a label is neither -100 nor its token, or a log-probability is not finite.
        """
        rows = self.samples.read(numbers)
        if rows.counted is None and not self._fill_counts:
            rows = rows._replace(counted=self.samples.documents(numbers) > 0)
        reference = None if self.reference is None else logs(self.reference, numbers)
        return TextRows(rows.tokens, self.labelled(rows), reference)

    def labelled(self, rows: Rows) -> NDArray[np.float32]:
        """Mark the labels that count, float32 [R, S]."""
        tokens, counted = rows
        counts = np.ones(tokens.shape, bool) if counted is None else counted
        counts = counts[:, 1:]
        if self._masked_token is not None:
            counts = counts & (tokens[:, :-1] != self._masked_token)
        return counts.astype(np.float32)

    def fingerprint(self) -> dict[str, Any]:
        reference = {} if self.reference is None else self.reference.dataset.content
        return {
            **self.samples.fingerprint(),
            "reference": reference,
            "masked_token": self._masked_token,
            "fill_counts": self._fill_counts,
        }
