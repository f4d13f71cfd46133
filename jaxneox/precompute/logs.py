"""Computes the log-probabilities of rows of texts, and writes them."""
# R rows, S tokens of a sample; a row has S + 1

from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxneox.console.progress import progress
from jaxneox.data import reference_record
from jaxneox.data.writer import IndexedWriter
from jaxneox.errors import UserError
from jaxneox.loading import LoadedModel
from jaxneox.precompute.texts import ScoredTexts

TOKENS = 16384
"""Of a batch, on all devices together."""


class Logs:
    """The log-probabilities of labels by a model.

    Args:
        model: the reference model.
        seq_length: S.
        replicas: the devices between which rows are split.
    """

    def __init__(self, model: LoadedModel, seq_length: int, replicas: int) -> None:
        self.model, self.seq_length = model, seq_length
        self.rows = max(1, TOKENS // seq_length // replicas) * replicas

    @cached_property
    def losses(self) -> jax.stages.Wrapped:
        return jax.jit(self.model.token_losses)

    def of(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute log p(token t + 1 | tokens up to t) of rows [R, S + 1]: float32 [R, S]."""
        batch = np.zeros((self.rows, self.seq_length + 1), np.int32)
        batch[: len(tokens)] = tokens
        return -np.asarray(self.losses(self.model.params, jnp.asarray(batch)))[: len(tokens)]

    def write(self, texts: ScoredTexts, model: str) -> None:
        """Write the log-probabilities of texts, a document of S numbers for each row.

        Args:
            texts: the rows.
            model: a fingerprint of the reference model, for the record.

        Raises:
            UserError: a token is outside of the model's vocabulary, or a result is not finite.
        """
        vocabulary = self.model.config.model.vocab_size
        with (
            progress(f"computing {texts.to.name}", texts.count, "texts") as advance,
            IndexedWriter(texts.to, np.float32) as out,
        ):
            for first in range(0, texts.count, self.rows):
                numbers = np.arange(first, min(first + self.rows, texts.count))
                tokens = texts.read(numbers)
                self._check(texts, first, (tokens < 0) | (tokens >= vocabulary),
                    f"has a token outside of the model's vocabulary of {vocabulary}")  # fmt: skip
                found = self.of(tokens)
                self._check(texts, first, ~np.isfinite(found),
                    "has a log-probability that is not finite")  # fmt: skip
                for row in found:
                    out.add(row)
                advance(len(numbers))
            # Where there is an index, the record is always that of its dataset.
            Path(f"{texts.to}.idx").unlink(missing_ok=True)
            reference_record.write(texts.to, texts.rows, model)

    def _check(self, texts: ScoredTexts, first: int, wrong: NDArray[np.bool_], what: str) -> None:
        rows = np.flatnonzero(wrong.any(axis=1))
        if len(rows):
            raise UserError(f"{texts.to}: document {first + rows[0]} {what}")
