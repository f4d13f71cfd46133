"""Perplexities of files, how sure they are, and how two checkpoints differ in them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jaxneox.errors import UserError
from jaxneox.evaluate.corpus import Corpus
from jaxneox.infer.scoring import Scored

SURE = 1.959964  # standard errors on each side of a 95 % interval


@dataclass(frozen=True)
class Measured:
    """The losses of one corpus: window by window, in nats, float64."""

    corpus: Corpus
    losses: NDArray[np.float64]  # the sum over each window's tokens
    counts: NDArray[np.int64]

    @property
    def loss(self) -> float:
        """The mean loss of a token."""
        return float(self.losses.sum() / self.counts.sum())

    @property
    def error(self) -> float:
        """The standard error of `loss`, windows being independent; nan for one window."""
        return ratio_error(self.losses, self.counts)

    @property
    def perplexity(self) -> float:
        return exp(self.loss)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the perplexity."""
        low, high = (exp(self.loss + sign * SURE * self.error) for sign in (-1, 1))
        return low, high

    def per(self, units: int | None) -> float | None:
        """Return the perplexity of a byte or a word, of which there are so many."""
        return exp(self.losses.sum() / units) if units else None

    def figures(self) -> dict[str, object]:
        """Collect the figures for the JSON file."""
        return {
            "file": self.corpus.name,
            "tokens": int(self.counts.sum()),
            "loss": self.loss,
            "loss_stderr": None if math.isnan(self.error) else self.error,
            "perplexity": self.perplexity,
            "perplexity_95": None if math.isnan(self.error) else self.interval,
            "byte_perplexity": self.per(self.corpus.bytes),
            "word_perplexity": self.per(self.corpus.words),
            "windows": [
                {"tokens": int(count), "loss": loss / count}
                for loss, count in zip(self.losses.tolist(), self.counts.tolist(), strict=True)
            ],
        }


def measured(corpus: Corpus, scored: Sequence[Scored]) -> Measured:
    losses = []
    for number, one in enumerate(scored):
        try:
            losses.append(-one.total)
        except UserError as error:
            raise UserError(f"{corpus.name}, window {number}: {error}") from error
    return Measured(corpus, np.array(losses), np.array([len(one.logprobs) for one in scored]))


def ratio_error(sums: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Return the standard error of sum / count over independent windows (linearised ratio)."""
    if len(sums) < 2:
        return math.nan
    rest = sums - counts * (sums.sum() / counts.sum())
    return math.sqrt((rest**2).sum() * len(sums) / (len(sums) - 1)) / int(counts.sum())


def difference(one: Measured, other: Measured) -> tuple[float, float]:
    """Return how much greater a token's loss is than the other's, and the standard error of that.

    The windows are the same ones.
    """
    if not np.array_equal(one.counts, other.counts):
        raise UserError(
            f"{one.corpus.name}: the two checkpoints tokenize it differently; --compare needs the "
            "same tokenizer and the same context"
        )
    apart = one.losses - other.losses
    return float(apart.sum() / one.counts.sum()), ratio_error(apart, one.counts)


def exp(x: float) -> float:
    """Return e to the x, or infinity if that is too large, as a word's perplexity can be."""
    return math.exp(x) if x < 709 else math.inf
