"""Prompts with another prompt's completion, from which KTO estimates its baseline."""
# N documents, R texts asked for, S tokens of a sample

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.reference_logs import logs
from jaxneox.data.samples import IndexedSamples, Rows, place


class Mismatched:
    """The prompt of each document, followed by the completion of another one.

    The other is the next useful document of the file, after the last one the first. The prompt is
    all before the first label that counts, the completion all from there on. A row is cut after
    S + 1 tokens.

    Args:
        samples: of the documents; says how rows are filled up and labels are checked.
        prompts: int64 [N], the tokens of each document's prompt.
        useful: [N], which documents are trained on.
        seq_length: S.
        reference: log-probabilities of the rows, one document for that of each document's prompt,
            by the index of `samples`; None if there are none.
    """

    def __init__(
        self,
        samples: IndexedSamples,
        prompts: NDArray[np.int64],
        useful: NDArray[np.bool_],
        seq_length: int,
        reference: IndexedSamples | None,
    ) -> None:
        self._samples, self._prompts, self._width = samples, prompts, seq_length + 1
        self._useful, self._reference = np.flatnonzero(useful), reference

    def other(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the document whose completion follows the prompt of each of these."""
        after = np.searchsorted(self._useful, documents, "right")
        return self._useful[after % len(self._useful)]

    def read(self, documents: NDArray[np.int64]) -> Rows:
        """Read the rows that begin with these documents' prompts; see `IndexedSamples.read`."""
        return self._samples.read_at(self._columns(documents), len(documents))

    def reference(self, numbers: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Read the log-probabilities of the rows of these samples, float32 [R, S], if any."""
        return None if self._reference is None else logs(self._reference, numbers)

    def locate(self, document: int, column: int) -> str:
        """Say where a token is of the row that begins with this document's prompt."""
        prompt = int(self._prompts[document])
        if column < prompt:
            return place(self._samples.dataset, document, column)
        (other,) = self.other(np.array([document]))
        offset = column - prompt + int(self._prompts[other])
        return place(self._samples.dataset, int(other), offset)

    def fingerprint(self) -> dict[str, Any]:
        return {} if self._reference is None else self._reference.dataset.content

    def _columns(self, documents: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Compute the spans of rows, as `IndexedSamples.columns`: a prompt and a completion."""
        other = self.other(documents)
        prompt, zero = self._prompts[documents], np.zeros(len(documents), np.int64)
        completion = self._samples.dataset.sizes[other] - self._prompts[other]
        row = np.arange(len(documents))
        column = np.stack([zero, prompt], axis=1).reshape(-1)
        length = np.stack([prompt, completion], axis=1).reshape(-1)
        length = np.minimum(length, self._width - column)
        kept = length > 0
        spans = (
            np.repeat(row, 2),
            column,
            np.stack([documents, other], axis=1).reshape(-1),
            np.stack([zero, self._prompts[other]], axis=1).reshape(-1),
            length,
        )
        return tuple(part[kept].astype(np.int64) for part in spans)
