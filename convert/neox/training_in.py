"""A NeoX run's training state besides its weights, as ours: Adam's moments and the counters."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from convert.checkpoint import Moment, Training
from convert.fate import differ
from convert.neox.checkpoint import Merged
from convert.neox.merge import make_plan
from convert.neox.plan import MergeChoices, MergePlan
from convert.neox.training_keys_in import batch_notes, summed_of
from convert.parts import Leaves, Part
from convert.readers.neox import NeoxCheckpoint, Shards
from convert.readers.neox_optimizer import NeoxOptimizer, Quantity, open_optimizer
from convert.readers.torch_file import TorchFile
from jaxneox.config import Settings
from jaxneox.config.optimization_schema import LossScaleConfig
from jaxneox.errors import UserError

MOMENTS: tuple[tuple[Moment, Quantity, int], ...] = (("mu", "exp_avg", 1), ("nu", "exp_avg_sq", 2))
"""Our moment, NeoX's quantity, and the power of the gradient in it."""


class Counterpart(NeoxCheckpoint):
    """The checkpoint with another quantity of its optimizer in place of each weight."""

    def __init__(self, source: NeoxCheckpoint, optimizer: NeoxOptimizer, quantity: Quantity):
        super().__init__(source.files, source.yamls, source.given, source.renamed, source.notes)
        self._source, self._optimizer, self._quantity = source, optimizer, quantity

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def ranks(self, index: int) -> list[Mapping[str, np.ndarray]]:
        shards = self.shards.get(index, [{}])[0]
        return self._optimizer.ranks(self._quantity, shards, index, self.mp)

    @cached_property
    def opened(self) -> list[TorchFile]:
        return self._source.opened

    @cached_property
    def shards(self) -> dict[int, Shards]:
        return self._source.shards

    @cached_property
    def states(self) -> list[dict[str, Any]]:
        return self._source.states

    @cached_property
    def keys(self) -> dict[str, Any]:
        return self._source.keys


def masters(source: NeoxCheckpoint, training: "NeoxTraining") -> NeoxCheckpoint:
    """Return the weights in float32; half-precision weights are read from their master weights."""
    if source.dtype.itemsize >= 4:
        return source
    return Counterpart(source, training.optimizer, "master")


@dataclass(frozen=True)
class NeoxTraining:
    """The training state that is carried over from a run of NeoX.

    Attributes:
        files: the files it is read from, besides the weights'.
        summed: the number of micro-batches whose gradients NeoX's pipeline engine sums. Ours
            are averaged, so the first moments are divided by it and the second by its square.
    """

    optimizer: NeoxOptimizer
    files: list[TorchFile]
    summed: int


def open_training(source: NeoxCheckpoint) -> NeoxTraining:
    """Open the training state.

    Raises:
        UserError: files are missing, or do not belong to the weights.
    """
    optimizer = open_optimizer(source)
    if optimizer.has_master():
        _check_masters(source, optimizer)
    elif source.dtype.itemsize < 4:
        raise UserError(
            f"{source.files.folder}: weights in {source.dtype.name}, and no float32 master weights "
            "in its optimizer's files; the weights alone convert without --optimizer"
        )
    states = source.opened[len(source.opened) - len(source.files.ranks) :]
    others = [file for file in states if file not in source.weight_files]
    return NeoxTraining(optimizer, [*others, *optimizer.files], summed_of(source))


def _check_masters(source: NeoxCheckpoint, optimizer: NeoxOptimizer) -> None:
    """Check that the weights are their master weights, rounded; else the files' steps differ."""
    for index, shards in source.shards.items():
        masters = optimizer.ranks("master", shards[0], index, source.mp)
        for rank, weights in enumerate(source.ranks(index)):
            for name, master in masters[rank].items():
                if differ([master.astype(weights[name].dtype), weights[name]]):
                    raise UserError(
                        f"{source.files.folder}: the optimizer's {name} of module {index}, rank "
                        f"{rank}, is not the weight that was saved: these files are of different "
                        "steps; the weights alone convert without --optimizer"
                    )


def training_notes(source: NeoxCheckpoint, training: NeoxTraining, plan: MergePlan) -> list[str]:
    """List what a user should know about a run that continues from here."""
    notes = [*training.optimizer.warnings, *batch_notes(source)]
    loss = Settings(plan.keys).precision.loss_scale
    if loss and loss.static is None and training.optimizer.scale is None:
        notes.append(
            "the optimizer's files have no dynamic loss scale: it begins anew, at "
            f"{loss.initial:g} (initial_scale_power)"
        )
    drifted = sorted({d.theirs for d in plan.decisions if d.drift.max and "norm" in d.theirs})
    if drifted:
        notes.append(
            f"the ranks' copies of {', '.join(drifted)} have drifted; to go on training they are "
            "one copy, their mean, and the losses will differ from NeoX's by some 1e-3 (without "
            "--optimizer they are folded exactly)"
        )
    factors = plan.keys.get("lr_factors")
    if factors:
        notes.append(
            f"{', '.join(factors)}: each stands for the sum of {source.mp} copies, and moves "
            f"{source.mp} times an Adam step, as they do in NeoX (lr_factors; --clean-biases ends "
            "that)"
        )
    return notes


def training_facts(training: NeoxTraining) -> dict[str, Any]:
    """Collect what the certificate says about the training state."""
    optimizer, n = training.optimizer, training.summed
    engine = "averages gradients over micro-batches, as we do"
    if n > 1:
        engine = (
            f"sums gradients over {n} micro-batches; here they are averaged, moments divided by "
            f"{n} and {n * n}, eps and the clipping threshold by {n}: the same updates"
        )
    return {
        "optimizer": "Adam, "
        + (f"ZeRO in {optimizer.partitions} parts" if optimizer.partitions else "without ZeRO"),
        "updates made": optimizer.count,
        "position of the schedule": optimizer.position,
        "master weights": "float32" if optimizer.has_master() else "the weights themselves",
        "NeoX's engine": engine,
        "clipping": optimizer.clipping or "none",
    }


class NeoxMoments(Merged):
    """One of Adam's moments, for gradients that are averaged over the micro-batches of a step.

    Copies of norms and biases have the same gradients and so the same moments; if they differ, the
    mean is taken.
    """

    def __init__(
        self,
        source: NeoxCheckpoint,
        optimizer: NeoxOptimizer,
        quantity: Quantity,
        divisor: int,
    ) -> None:
        moments = Counterpart(source, optimizer, quantity)
        choices = MergeChoices("mean", "once", "float32", drift="rank0")
        super().__init__(moments, make_plan(moments, choices))
        self._divisor = np.float32(divisor)

    def leaves(self, part: Part) -> Leaves:
        return {name: value / self._divisor for name, value in super().leaves(part).items()}


def as_ours(source: NeoxCheckpoint, training: NeoxTraining) -> Training:
    """Return the state in the form that any target takes."""
    optimizer = training.optimizer

    def scale(loss: LossScaleConfig) -> tuple[float, int, int] | None:
        return _scale(optimizer, loss)

    moments: dict[Moment, NeoxMoments] = {
        ours: NeoxMoments(source, optimizer, quantity, training.summed**times)
        for ours, quantity, times in MOMENTS
    }
    return Training(
        optimizer.count,
        optimizer.position,
        moments,
        _skipped(source),
        scale,
        training_facts(training),
    )


def _skipped(source: NeoxCheckpoint) -> int:
    skipped = next((state.get("skipped_steps") for state in source.states), 0)
    return skipped if isinstance(skipped, int) else 0


def _scale(optimizer: NeoxOptimizer, loss: LossScaleConfig) -> tuple[float, int, int] | None:
    """Return DeepSpeed's dynamic loss scale as ours, with steps counted from the last overflow."""
    state = optimizer.scale
    if state is None:
        return None
    since = int(state.get("cur_iter", 0)) - 1 - int(state.get("last_overflow_iter", -1))
    patience = int(state.get("cur_hysteresis", loss.hysteresis))
    return float(state["cur_scale"]), since % loss.window, patience
