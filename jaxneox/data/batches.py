"""The number of samples of each step; which samples a step has follows from the step alone."""

import bisect
from collections.abc import Sequence
from typing import Any, NamedTuple


class Stage(NamedTuple):
    """Steps of one size: the first of them, the first sample of that one, and the size."""

    step: int
    sample: int
    size: int


class BatchSizes:
    """The global batch as a function of the step, counted from 0.

    Without a ramp it is `size` at every step. `ramp` is Megatron's `--rampup-batch-size START
    INCREMENT SAMPLES`: it begins with START sequences and grows by INCREMENT, each time after an
    equal share of the first SAMPLES samples, until it is `size` (Megatron-LM
    `megatron/core/num_microbatches_calculator.py`).

    Attributes:
        largest: the size at the end.
        stages: all sizes in their order.
    """

    def __init__(self, size: int, ramp: tuple[int, int, int] | None = None) -> None:
        self.largest, self.ramp = size, ramp
        self.stages = _stages(size, ramp, 0, 0)

    def follow(self, stages: Sequence[Sequence[int]], step: int, changed: bool) -> None:
        """Take the samples that a run with these stages has left, from `step` on.

        `changed` says that it had other sizes: they count until `step`, and these from there on.
        """
        before = BatchSizes(self.largest)
        before.stages = [Stage(*stage) for stage in stages]
        if changed:
            past = [stage for stage in before.stages if stage.step < step]
            now = _stages(self.largest, self.ramp, step, before.first(step))
            before.stages = past + now
        self.stages = before.stages

    def identity(self) -> dict[str, Any]:
        """Return what the configuration says of the sizes, as JSON."""
        ramp = {} if self.ramp is None else {"ramp": list(self.ramp)}
        return {"global_batch": self.largest, **ramp}

    def size(self, step: int) -> int:
        """The samples of a step."""
        return self._stage(step).size

    def first(self, step: int) -> int:
        """The first sample of a step, if samples were never used up."""
        stage = self._stage(step)
        return stage.sample + (step - stage.step) * stage.size

    def _stage(self, step: int) -> Stage:
        return self.stages[bisect.bisect_right(self.stages, step, key=lambda s: s.step) - 1]


def _stages(size: int, ramp: tuple[int, int, int] | None, step: int, taken: int) -> list[Stage]:
    """List the sizes from `step` on, before which `taken` samples were."""
    start, increment, samples = ramp or (size, 1, 1)
    increments = (size - start) // increment
    share = samples / increments if increments else 0.0

    def number(taken: int) -> int:
        """Count how often the size has grown, as Megatron rounds it."""
        return increments if taken > samples or not share else min(increments, int(taken / share))

    stages = []
    while True:
        grown = number(taken)
        stages.append(Stage(step, taken, start + grown * increment))
        if grown == increments:
            return stages
        steps = max(1, int(((grown + 1) * share - taken) / stages[-1].size))
        while number(taken + steps * stages[-1].size) == grown:
            steps += 1
        step, taken = step + steps, taken + steps * stages[-1].size
