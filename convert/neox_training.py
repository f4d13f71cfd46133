"""A run of ours on its way back to NeoX: the optimizer's state, and the keys that go with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.readers.jaxneox import JaxneoxCheckpoint, JaxneoxMoments
from convert.rules import neox
from convert.rules.rule import Role, Rule
from convert.split import Layout, Split
from convert.writers.neox_adam import AdamState, Counters, stage_modules
from convert.writers.neox_zero import ZeroState
from jaxneox.config import data_run_of
from jaxneox.config.check import Settings
from jaxneox.config.optimization import optimizer_config, precision_config, schedule_config
from jaxneox.config.schema import OptimizerConfig, ScheduleConfig
from jaxneox.errors import UserError
from jaxneox.optim.schedule import build_schedule

JUST_ABOVE_ONE = 1.0000001
"""NeoX HEAD takes a threshold of clipping of 1 for none."""


class MomentSplit(Split):
    """Moments cut as their weights are; each copy of a bias has the whole of its moments."""

    def _divides(self, rule: Rule) -> bool:
        return False


@dataclass
class NeoxTraining:
    """See `writers.neox.Training`."""

    adam: AdamState
    stages: list[list[int]]
    position: int
    step: int
    sequences: int  # of a global batch

    def state(self, stage: int, rank: int) -> dict[str, Any]:
        return self.adam.state(rank, self.stages[stage]) | {
            "lr_scheduler": self.adam.counters.schedule | {"num_iters": self.position},
            "global_steps": self.step,
            "global_samples": self.step * self.sequences,
        }

    def further(self, number: int, stage: int, rank: int) -> dict[str, Any]:
        return self.adam.files(number, rank, self.stages[stage])


def open_training(
    source: JaxneoxCheckpoint, layout: Layout, folder: Path, dp: int
) -> tuple[NeoxTraining, dict[str, Any], list[str]]:
    """The state, the keys by which NeoX goes on as this run would, and what a user should know.

    NeoX's pipeline engine sums the gradients of the micro-batches of a step; how many those are
    follows from the global batch, the micro-batch and `dp`. Raises UserError for a run whose
    optimizer NeoX would not read in this form.
    """
    keys = source.keys
    settings = Settings(keys)
    optimizer = optimizer_config(settings)
    half = precision_config(settings).compute
    _refuse(source, half, optimizer.kind)
    batch = data_run_of(keys, dp=dp, vocab_size=None).batch
    summed = batch.accumulation if layout.pp else 1
    clip = optimizer.grad_clip * summed
    first = JaxneoxMoments(source.place, "mu")
    counters = _counters(first, optimizer, schedule_config(settings, optimizer.lr), summed)
    adam = AdamState(folder, counters)
    if half == "bfloat16":
        tied = source.model.tied_embedding and layout.pp > 0
        adam = ZeroState(
            folder, counters, parts=dp, tied=tied, sequential=not layout.pp, clipping=clip
        )
    _collect(adam, source, first, layout, summed)
    training = NeoxTraining(
        adam, _stages(source, layout), first.position, source.place.step, batch.global_size
    )
    block = dict(keys.get("optimizer") or {})
    block["params"] = dict(block.get("params") or {}) | {"eps": counters.eps}
    further = {
        "optimizer": block,
        "gradient_clipping": JUST_ABOVE_ONE if clip == 1.0 else clip,
        "zero_optimization": {"stage": int(isinstance(adam, ZeroState))},
        "train_batch_size": batch.global_size,
        "train_micro_batch_size_per_gpu": batch.micro,
        "gradient_accumulation_steps": batch.accumulation,
        "no_load_rng": True,  # ours has no such state: a key and the step decide
    }
    return training, further, _notes(source, settings, layout, summed)


def _counters(
    first: JaxneoxMoments, optimizer: OptimizerConfig, schedule: ScheduleConfig, summed: int
) -> Counters:
    return Counters(
        first.updates,
        first.position,
        float(build_schedule(schedule)(np.int32(first.position))),
        optimizer.betas,
        optimizer.eps * summed,
        optimizer.weight_decay,
        {
            "start_lr": schedule.lr,
            "warmup_iter": schedule.warmup_iters,
            "decay_style": schedule.style,
            "end_iter": schedule.decay_iters,
            "min_lr": schedule.min_lr,
        },
    )


def _collect(
    adam: AdamState,
    source: JaxneoxCheckpoint,
    first: JaxneoxMoments,
    layout: Layout,
    summed: int,
) -> None:
    """All tensors of all ranks; master weights where they are kept apart."""
    splits: list[Split] = [
        MomentSplit(first, layout),
        MomentSplit(JaxneoxMoments(source.place, "nu"), layout),
    ]
    masters = isinstance(adam, ZeroState)
    if masters:
        splits.append(Split(source, layout))
    for modules in zip(*(split.modules() for split in splits), strict=True):
        index = modules[0][0]
        for rank in range(layout.mp):
            mean, square, *weights = (ranks[rank] for _, ranks, _ in modules)
            for name in mean.keys() - set(neox.BUFFERS):
                unused = source.model.shared_norm and name.startswith("post_attention_layernorm")
                if unused and not masters:
                    adam.leave_out(index, name)
                    continue
                times = 0.0 if unused else float(summed)
                values = {"exp_avg": mean[name] * times, "exp_avg_sq": square[name] * times**2}
                if masters:
                    values["master"] = weights[0][name]
                adam.add(rank, index, name, **values)


def _refuse(source: JaxneoxCheckpoint, precision: str, kind: str) -> None:
    reasons = {
        f"its optimizer is {kind}, expected Adam": kind not in ("adam", "adamw"),
        "it computes in float16, whose optimizer NeoX keeps in files of another form; float32 and "
        "bfloat16 are written": precision == "float16",
        "it has a bias on its logits, which NeoX has not": source.model.logit_bias,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise UserError(
            f"{source.place.folder}: {'; '.join(found)}. The weights alone convert without "
            "--optimizer"
        )


def _stages(source: JaxneoxCheckpoint, layout: Layout) -> list[list[int]]:
    """The modules with parameters of each stage; a tied embedding comes first in the last too."""
    model = source.model
    method = str(source.keys.get("pipe_partition_method", "type:transformer|mlp")).lower()
    count = max(1, layout.pp)
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


def _notes(source: JaxneoxCheckpoint, settings: Settings, layout: Layout, summed: int) -> list[str]:
    notes = []
    if summed > 1:
        notes.append(
            f"NeoX's pipeline engine sums gradients over {summed} micro-batches: moments, eps and "
            "the threshold of clipping are made for that; with another number of data-parallel "
            "ranks convert again with --dp"
        )
    biases = [
        rule.parts[0].leaf
        for rule in neox.modules(source.model)[neox.FIRST_BLOCK]
        if rule.role is Role.BIAS
    ]
    factors = settings["lr_factors"] or {}
    if source.model.parallel_residual:
        other = [name for name in biases if factors.get(name, 1.0) != layout.mp]
        if other:
            notes.append(
                f"{', '.join(other)}: NeoX moves {layout.mp} copies of them, an Adam step each; "
                f"here they moved {factors.get(other[0], 1.0):g} steps at a time (lr_factors)"
            )
    lost = [name for name in factors if name not in biases or not source.model.parallel_residual]
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
