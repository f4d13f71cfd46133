"""A run of ours on its way back to NeoX: the optimizer's state, and the keys that go with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint, Source, Training
from convert.neox.grid import NeoxGrid
from convert.neox.split import Split
from convert.parts import parts_of
from convert.rules import neox
from convert.rules.rule import Role, Rule
from convert.writers.neox_adam import AdamState, Counters, stage_modules
from convert.writers.neox_zero import ZeroState
from jaxneox.config import Settings
from jaxneox.config.present import in_present_names
from jaxneox.config.schema import ModelConfig, OptimizerConfig, ScheduleConfig
from jaxneox.errors import UserError
from jaxneox.optim.schedule import build_schedule

JUST_ABOVE_ONE = 1.0000001
"""A clipping threshold for 1, which NeoX HEAD would read as no clipping."""


class MomentSplit(Split):
    """Moments cut like their weights, except that each copy of a bias has all of its moments."""

    def _divides(self, rule: Rule) -> bool:
        return False


@dataclass
class NeoxState:
    """The training state of NeoX's files; see `writers.neox.TrainingContent`."""

    adam: AdamState
    stages: list[list[int]]
    position: int
    step: int
    sequences: int  # of a global batch
    summed: int  # micro-batches, whose gradients NeoX adds up
    experts: float  # by which ours multiplies the gradients of experts

    def state(self, stage: int, rank: int) -> dict[str, Any]:
        return self.adam.state(rank, self.stages[stage]) | {
            "lr_scheduler": self.adam.counters.schedule | {"num_iters": self.position},
            "global_steps": self.step,
            "global_samples": self.step * self.sequences,
        }

    def files(self, number: int, stage: int, rank: int) -> dict[str, Any]:
        return self.adam.files(number, rank, self.stages[stage])


def prepare(
    source: Source, training: Training, grid: NeoxGrid, folder: Path, dp: int
) -> tuple[NeoxState, dict[str, Any], list[str]]:
    """Prepare the state, the keys with which NeoX continues this run, and notes for the user.

    `collect` puts the tensors into the state.

    NeoX's pipeline engine sums the gradients of the micro-batches of a step. Their number follows
    from the global batch, the micro-batch and `dp`.

    Raises:
        UserError: NeoX could not read the state of the run's optimizer in this form.
    """
    keys = source.keys
    settings = Settings(keys)
    optimizer, half = settings.optimizer, settings.precision.compute
    _refuse(source, half, optimizer.kind)
    batch = settings.batch(dp)
    summed = batch.accumulation if grid.pp else 1
    clip = optimizer.grad_clip * summed
    counters = _counters(training, optimizer, settings.schedule, summed)
    adam = AdamState(folder, counters)
    if half == "bfloat16":
        tied = source.checkpoint.model.tied_embedding and grid.pp > 0
        adam = ZeroState(
            folder, counters, parts=dp, tied=tied, sequential=not grid.pp, clipping=clip
        )
    of_experts = optimizer.gradient_factors.get("layers.experts.up", 1.0)
    sizes = (source.step, batch.global_size, summed)
    written = NeoxState(adam, _stages(source, grid), training.position, *sizes, of_experts)
    block = dict(in_present_names(keys).get("optimizer") or {})
    params = {n: x for n, x in (block.get("params") or {}).items() if n != "weight_decay"}
    block["params"] = params | {"eps": counters.eps}
    more_keys = {
        "optimizer": block,
        "weight_decay": counters.weight_decay,
        "gradient_clipping": JUST_ABOVE_ONE if clip == 1.0 else clip,
        "zero_optimization": {"stage": int(isinstance(adam, ZeroState))},
        "train_batch_size": batch.global_size,
        "train_micro_batch_size_per_gpu": batch.micro,
        "gradient_accumulation_steps": batch.accumulation,
        "no_load_rng": True,  # ours has no such state: a key and the step decide
    }
    return written, more_keys, _notes(source, settings, grid, summed)


def _counters(
    training: Training, optimizer: OptimizerConfig, schedule: ScheduleConfig, summed: int
) -> Counters:
    return Counters(
        training.updates,
        training.position,
        float(build_schedule(schedule)(np.int32(training.position))),
        optimizer.betas,
        optimizer.eps * summed,
        optimizer.weight_decay * (1 if optimizer.decoupled_decay else summed),
        {
            "start_lr": schedule.lr,
            "warmup_iter": schedule.warmup_iters,
            "decay_style": schedule.style,
            "end_iter": schedule.decay_iters,
            "min_lr": schedule.min_lr,
        },
        optimizer.bias_correction,
    )


def collect(
    written: NeoxState,
    source: Source,
    training: Training,
    grid: NeoxGrid,
    advance: Callable[[int], None],
) -> None:
    """Collect all tensors of all ranks; master weights too, where they are kept apart.

    Args:
        written: the content of NeoX's files, which gets the tensors.
        source: the run, for its master weights.
        training: its moments.
        grid: the ranks to cut for.
        advance: is called with the number of bytes of moments that were cut.
    """
    cuts: dict[str, tuple[Split, Checkpoint]] = {
        "exp_avg": (MomentSplit(training.moments["mu"], grid), training.moments["mu"]),
        "exp_avg_sq": (MomentSplit(training.moments["nu"], grid), training.moments["nu"]),
    }
    if isinstance(written.adam, ZeroState):
        cuts["master"] = Split(source.checkpoint, grid), source.checkpoint
    for part in parts_of(source.checkpoint.model):
        leaves = [values.leaves(part) for _, values in cuts.values()]
        modules = [
            split.cut(part, own) for (split, _), own in zip(cuts.values(), leaves, strict=True)
        ]
        for one_module in zip(*modules, strict=True):
            index = one_module[0][0]
            for rank in range(grid.mp):
                tensors = [ranks[rank] for _, ranks, _ in one_module]
                by_kind = dict(zip(cuts, tensors, strict=True))
                _add(written, source.checkpoint.model, (grid.mp, rank, index), by_kind)
        advance(sum(leaf.nbytes for own in leaves[:2] for leaf in own.values()))


def _add(
    written: NeoxState,
    model: ModelConfig,
    where: tuple[int, int, int],
    tensors: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Add one rank's tensors of a module by kind; NeoX's moments are of summed gradients."""
    mp, rank, index = where
    for name in tensors["exp_avg"].keys() - set(neox.BUFFERS):
        unused = model.shared_norm and name.startswith("post_attention_layernorm")
        if unused and "master" not in tensors:
            written.adam.leave_out(index, name)
            continue
        factor = 0.0 if unused else float(written.summed)
        if name.startswith(neox.EXPERTS):
            factor /= mp * written.experts  # NeoX divides their gradients by the ranks
        values = {kind: of_kind[name] for kind, of_kind in tensors.items()}
        values["exp_avg"] = values["exp_avg"] * factor
        values["exp_avg_sq"] = values["exp_avg_sq"] * factor**2
        written.adam.add(rank, index, name, **values)


def _refuse(source: Source, precision: str, kind: str) -> None:
    reasons = {
        f"its optimizer is {kind}, expected Adam": kind not in ("adam", "adamw"),
        "it computes in float16, whose optimizer NeoX keeps in files of another form; float32 and "
        "bfloat16 are written": precision == "float16",
        "it has a bias on its logits, which NeoX has not": source.checkpoint.model.logit_bias,
    }
    refused = [reason for reason, holds in reasons.items() if holds]
    if refused:
        raise UserError(
            f"{source.path}: {'; '.join(refused)}. The weights alone convert without --optimizer"
        )


def _stages(source: Source, grid: NeoxGrid) -> list[list[int]]:
    """List the modules with parameters of each stage; the last starts with a tied embedding too."""
    model = source.checkpoint.model
    method = str(source.keys.get("pipe_partition_method", "type:transformer|mlp")).lower()
    count = max(1, grid.pp)
    bounds = (
        stage_modules(model.num_layers, count, method)
        if count > 1
        else [range(model.num_layers + 5)]
    )
    known = neox.modules(model)
    stages = [[index for index in modules if index in known] for modules in bounds]
    if count > 1 and model.tied_embedding:
        stages[-1].insert(0, neox.EMBEDDING)
    return stages


def _notes(source: Source, settings: Settings, grid: NeoxGrid, summed: int) -> list[str]:
    notes = []
    if summed > 1:
        notes.append(
            f"NeoX's pipeline engine sums gradients over {summed} micro-batches: moments, eps and "
            "the clipping threshold are made for that; with another number of data-parallel "
            "ranks convert again with --dp"
        )
    biases = [
        rule.parts[0].leaf for rule in neox.every(source.checkpoint.model) if rule.role is Role.BIAS
    ]
    factors = settings["lr_factors"] or {}
    if source.checkpoint.model.parallel_residual:
        other = [name for name in biases if factors.get(name, 1.0) != grid.mp]
        if other:
            notes.append(
                f"{', '.join(other)}: NeoX moves {grid.mp} copies of them, an Adam step each; "
                f"here they moved {factors.get(other[0], 1.0):g} steps at a time (lr_factors)"
            )
    lost = [
        name
        for name in factors
        if name not in biases or not source.checkpoint.model.parallel_residual
    ]
    if lost:
        notes.append(
            f"{', '.join(lost)}: NeoX has no lr_factors, and moves them one step at a time"
        )
    if settings["clip_leaves_out"] and settings["gradient_clipping"]:
        notes.append(
            "clip_leaves_out is not carried over: the norm that NeoX clips by leaves out what its "
            "own engine does at this --pp"
        )
    if settings["old_lr_schedule"] or not settings["neox_compat"]:
        notes.append(
            "NeoX HEAD's schedule is not quite this run's (it differs at the first step, after "
            "lr-decay-iters, and from that of before 2023-08): compare the learning rates"
        )
    return notes
