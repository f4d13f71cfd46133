"""The logits of several functions on one text, a few sequences at a time."""
# B batch, T length, V padded vocabulary

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """Two functions' logits on the same tokens; perplexities include the vocabulary's padding.

    Of reward models these are values, which give no probabilities.
    """

    title: str
    max_abs: float
    relative: float
    kl: float | None  # mean over positions, nats
    perplexity: float | None


class Totals:
    """Sums over batches, added by `add`, from which `comparison` compares functions.

    The first function is the source, and the second the target.
    """

    def __init__(self, titles: list[str]) -> None:
        self.titles = titles
        self._max, self._off, self._kl, self._loss = np.zeros((4, len(titles)))
        self._size, self._positions, self._labels = 0.0, 0, 0
        self._values = False

    def add(self, logits: list[np.ndarray], tokens_BT: np.ndarray) -> None:
        """Add a batch of logits [B, T, V] of every function, or of values [B, T, 1]."""
        source, first = log_softmax(logits[0]), logits[0]
        self._values = first.shape[-1] == 1
        self._size += float((first * first).sum())
        self._positions += tokens_BT.size
        self._labels += tokens_BT[:, 1:].size
        for side, logits_BTV in enumerate(logits):
            off, other = logits_BTV - first, log_softmax(logits_BTV)
            self._max[side] = max(self._max[side], float(abs(off).max()))
            self._off[side] += float((off * off).sum())
            if self._values:
                continue
            self._kl[side] += float((np.exp(source) * (source - other)).sum())
            picked = np.take_along_axis(other[:, :-1], tokens_BT[:, 1:, None], axis=-1)
            self._loss[side] -= float(picked.sum())

    def perplexity(self, side: int = 0) -> float | None:
        """Compute the perplexity of each token given those before it; None of values."""
        return None if self._values else float(np.exp(self._loss[side] / self._labels))

    def comparison(self, side: int) -> Comparison:
        return Comparison(
            self.titles[side],
            float(self._max[side]),
            self.relative(side),
            None if self._values else float(self._kl[side] / self._positions),
            self.perplexity(side),
        )

    def relative(self, side: int) -> float:
        """Compute the relative L2 distance of a function's logits from the first's."""
        return float(np.sqrt(self._off[side] / (self._size or 1.0)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
