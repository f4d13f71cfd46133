"""The dataset that gives sample i of a blend: NeoX's and Megatron's weights and order.

At every sample the dataset furthest behind its share is chosen: the one with the largest
`weight * max(i, 1) - used` in float64, the first of equals (gpt-neox `megatron/data/helpers.cpp`,
`build_blending_indices`; in Megatron-LM also `build_exhaustive_blending_indices`).
"""
# K datasets, N samples, L lanes

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.order.split import plain_sum
from jaxneox.errors import UserError

LANES = 8192
SHORTEST_LANE = 256
STEPS = 64  # recorded before they are copied to where they belong

Counts = NDArray[np.float64]  # [K, L], the samples that each dataset has given; whole numbers


def normalised(weights: Sequence[float], key: str) -> list[float]:
    """Return weights that sum to one, or raise a UserError that names the YAML key."""
    total = plain_sum(weights)
    if not 0 < total < math.inf or min(weights) < 0:
        raise UserError(
            f"{key}: {list(weights)}, expected numbers of at least 0, not all of them 0"
        )
    return [weight / total for weight in weights]


def weights_by_documents(documents: Sequence[int], alpha: float) -> list[float]:
    """Apply `weight-by-num-documents`: p(1 - n) normalised, with n a share and p its power alpha.

    The second factor gives small corpora more (gpt-neox `data_utils.py`, `weights_by_num_docs`).
    """
    if len(documents) == 1:
        return [1.0]
    shares = [count / sum(documents) for count in documents]
    powers = [share**alpha for share in shares]
    total = plain_sum(powers)
    weights = [power / total * (1 - share) for power, share in zip(powers, shares, strict=True)]
    return normalised(weights, "weight-by-num-documents")


def samples_of_each(weights: Sequence[float], num_samples: int) -> list[int]:
    """Count the samples NeoX builds each dataset for: its share and half a percent to spare."""
    return [math.ceil(num_samples * weight * 1.005) for weight in weights]


def blend_indices(
    weights: Sequence[float], size: int, limits: Sequence[int] | None = None
) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64]]:
    """Choose the dataset that gives sample i, and which of its own samples: [N] and int64 [N].

    A dataset that has given as many samples as its `limits` says is not chosen any more.

    Each choice depends on the counts that all choices before it have left. To compute them many at
    a time, the samples are cut into lanes that run side by side. Each lane begins a little before
    its own part, from approximate counts, since the counts soon cease to depend on where they
    began. A lane whose counts at the start of its part are not those with which the lane before it
    ended is run again from the latter, until all agree. So the result is that of a single lane,
    whatever the first counts were.
    """
    lanes = Lanes(weights, size, limits)
    start = lanes.nearly()
    end = lanes.run(np.arange(lanes.count), start)
    while len(wrong := np.flatnonzero((end[:, :-1] != start[:, 1:]).any(axis=0)) + 1):
        start[:, wrong] = end[:, wrong - 1]
        end[:, wrong] = lanes.run(wrong, start[:, wrong])
    return lanes.chosen.reshape(-1)[:size], lanes.numbers.reshape(-1)[:size]


class Lanes:
    """Parts of one sequence of choices, [L, part] side by side.

    Attributes:
        chosen: the dataset of each choice made so far.
        numbers: int64, how many that dataset had given before.
    """

    def __init__(
        self, weights: Sequence[float], size: int, limits: Sequence[int] | None = None
    ) -> None:
        self.shares = np.array(weights, np.float64)
        self.limits = None if limits is None else np.array(limits, np.float64)
        self.part = -(-size // max(1, min(LANES, size // SHORTEST_LANE)))
        self.count = -(-size // self.part)
        self.begins = np.arange(self.count, dtype=np.int64) * self.part
        narrow = len(self.shares) < 256
        self.chosen = np.empty((self.count, self.part), np.uint8 if narrow else np.int16)
        self.numbers = np.empty((self.count, self.part), np.int64)

    def nearly(self) -> Counts:
        """Guess the counts at the begin of each lane, further back, and run from there."""
        steps = int(min(self.part, 4 * len(self.shares) / self.shares[self.shares > 0].min()))
        early = np.maximum(self.begins - steps, 0)
        used = np.floor(self.shares[:, None] * early)
        if self.limits is not None:
            used = np.minimum(used, self.limits[:, None])
        used[0] += early - used.sum(axis=0)
        for _ in self._choices(early, used, steps):
            pass
        used[:, self.begins < steps] = 0
        return used

    def run(self, lanes: NDArray[np.int64], start: Counts) -> Counts:
        """Make the choices of these lanes from counts before them; return the counts after them."""
        used = start.copy()
        recorded = np.empty((STEPS, 2, len(lanes)), np.int64)
        for step, choice in enumerate(self._choices(self.begins[lanes], used, self.part)):
            row = step % STEPS
            recorded[row] = choice
            if row == STEPS - 1 or step == self.part - 1:
                into = slice(step - row, step + 1)
                self.chosen[lanes, into] = recorded[: row + 1, 0].T
                self.numbers[lanes, into] = recorded[: row + 1, 1].T
        return used

    def _choices(
        self, begins: NDArray[np.int64], used: Counts, steps: int
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.float64]]]:
        """Yield (dataset [L], its count before [L]) step by step, and count it in `used`."""
        across = np.arange(len(begins))
        narrow = len(self.shares) < 255
        number = np.arange(len(self.shares), dtype=np.uint8 if narrow else np.uint16)[:, None]
        behind = np.empty(used.shape)
        for step in range(steps):
            np.multiply(self.shares[:, None], np.maximum(begins + step, 1), out=behind)
            np.subtract(behind, used, out=behind)
            if self.limits is not None:
                np.copyto(behind, -np.inf, where=used >= self.limits[:, None])
            # The first that is equal to the largest: all bits of the others' numbers are set.
            others = np.not_equal(behind, behind.max(axis=0)).astype(number.dtype)
            choice = np.bitwise_or(np.negative(others, out=others), number, out=others).min(axis=0)
            count = used[choice, across]
            yield choice, count
            used[choice, across] = count + 1.0
