"""When which pipeline stage computes what.

Time runs in ticks: in each, every stage runs one of its chunks of layers on one micro-batch, then
all pass their results on around the ring of stages. With one chunk a stage this is GPipe (Huang et
al. 2019). With v chunks stage s holds the chunks s, s + p, s + 2p, … of the model, so that a
micro-batch goes round the ring v times (the interleaved stages of Narayanan et al. 2021, there for
1F1B): a tick is 1 / v as long, and so is the time in which the ring fills and empties.
"""
# p stages, v chunks of each, m micro-batches

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Schedule:
    """The schedule of `micro` micro-batches over `stages` stages of `chunks` chunks each."""

    stages: int
    chunks: int
    micro: int

    @property
    def ticks(self) -> int:
        """The number of ticks, each as long as a chunk: m v + p - 1 if p divides m or v is 1."""
        return self._slots + self.stages - 1

    @property
    def bubble(self) -> float:
        """The share of ticks in which a stage has nothing to do.

        It is (p - 1) / (m v + p - 1) if p divides m or v is 1.
        """
        return 1 - self.chunks * self.micro / self.ticks

    @cached_property
    def micro_batch(self) -> NDArray[np.int32]:
        """The micro-batch of each stage in each tick, -1 for none: [ticks, stages]."""
        return np.where(self._busy, self._table[0], -1).astype(np.int32)

    @cached_property
    def chunk(self) -> NDArray[np.int32]:
        """The chunk of each stage in each tick, 0 for a stage without work: [ticks, stages]."""
        return np.where(self._busy, self._table[1], 0).astype(np.int32)

    @cached_property
    def enters(self) -> NDArray[np.bool_]:
        """Whether a stage takes a new micro-batch, not what the ring brings: [ticks, stages]."""
        first = np.arange(self.stages) == 0
        return (self.micro_batch >= 0) & (self.chunk == 0) & first

    @cached_property
    def leaves_at(self) -> NDArray[np.int32]:
        """The tick at whose end each micro-batch leaves the last stage's last chunk: [micro]."""
        done = (self.micro_batch[:, -1] >= 0) & (self.chunk[:, -1] == self.chunks - 1)
        ticks = np.flatnonzero(done)
        order = np.argsort(self.micro_batch[ticks, -1])
        return ticks[order].astype(np.int32)

    def __str__(self) -> str:
        chunks = f" of {self.chunks} chunks" if self.chunks > 1 else ""
        return (
            f"{self.stages} stages{chunks}, {self.micro} micro-batches: {self.ticks} ticks, "
            f"bubble {self.bubble:.1%}"
        )

    @property
    def _slots(self) -> int:
        """The slots of a stage.

        Micro-batches go round in groups of p, so that one comes back to stage 0 just when it is due
        there; a last group of fewer leaves slots empty.
        """
        if self.chunks == 1:
            return self.micro
        return -(-self.micro // self.stages) * self.stages * self.chunks

    @property
    def _slot(self) -> NDArray[np.int_]:
        """The slot of each stage in each tick: one begins a tick after the one before it."""
        return np.arange(self.ticks)[:, None] - np.arange(self.stages)[None]

    @cached_property
    def _table(self) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
        group, place = np.divmod(self._slot, self.stages * self.chunks)
        chunk, member = np.divmod(place, self.stages)
        return group * self.stages + member, chunk

    @property
    def _busy(self) -> NDArray[np.bool_]:
        slot = self._slot
        return (slot >= 0) & (slot < self._slots) & (self._table[0] < self.micro)
