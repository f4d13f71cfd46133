"""Sequences split over devices that pass their keys and values around a ring."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ring:
    """A ring of `count` devices along a mesh axis.

    Of the sequence's 2 * count blocks device i holds the blocks i and 2 * count - 1 - i: a late
    block sees much and an early one little, so that under a causal mask all devices have the same
    work (the order of Megatron-LM and of zig-zag ring attention).
    """

    axis: str
    count: int

    def order(self, length: int) -> NDArray[np.int32]:
        """List the positions as the devices hold them, one device after the other: [T]."""
        blocks = np.arange(length, dtype=np.int32).reshape(2 * self.count, -1)
        held = [(i, 2 * self.count - 1 - i) for i in range(self.count)]
        return np.concatenate([blocks[b] for pair in held for b in pair])
