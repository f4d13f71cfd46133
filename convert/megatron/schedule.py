"""Megatron-LM's learning rate schedule and the position in it, counted in our steps.

Megatron counts the position in samples. An update moves it by a global batch; a step that is
skipped, for an overflow or by --iterations-to-skip, does not, nor does Adam count it, but its
samples are consumed and it is an iteration (`train_step` and `train` of
megatron/training/training.py). What was saved (core/optimizer_param_scheduler.py) is what the run
computed with, whatever its arguments say; it was in iterations before 2020-12.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convert.readers.megatron_optimizer import MegatronOptimizer
from jaxneox.errors import UserError

STYLES = ("constant", "linear", "cosine")

AT = ("num_steps", "num_iters")
LENGTH = ("lr_decay_steps", "decay_steps", "end_iter")
WARMUP = ("lr_warmup_steps", "warmup_steps", "warmup_iter")
STYLE = ("lr_decay_style", "decay_style")
MAX_LR = ("max_lr", "start_lr")
"""Names in the saved state: today's first, then the earlier ones."""


@dataclass(frozen=True)
class MegatronSchedule:
    """A schedule of the learning rate, and the position in it.

    Attributes:
        position: the number of updates after which the schedule stands.
        skipped: steps that did not move it.
        lr: its maximum.
        min_lr: its minimum.
        keys: NeoX's keys of its lengths and style.
        notes: what is not exact.
    """

    position: int
    skipped: int
    lr: float
    min_lr: float
    keys: dict[str, Any]
    notes: list[str]


def schedule_of(
    args: Mapping[str, Any], optimizer: MegatronOptimizer, step: int
) -> MegatronSchedule:
    """Read the schedule.

    Raises:
        UserError: a value is not a number.
    """
    saved = optimizer.schedule
    unit = 1.0 if "num_iters" in saved else number(args, "global_batch_size")
    position, notes = _position(optimizer, step, unit)
    keys, inexact = _lengths(args, saved, unit)
    style = next((saved[name] for name in STYLE if name in saved), args.get("lr_decay_style"))
    if style in STYLES:
        keys["lr_decay_style"] = style
    decays = max(optimizer.groups, key=lambda group: group.get("wd_mult", 1.0))
    lr = number(decays, "max_lr") or number(saved, *MAX_LR) or number(args, "lr")
    low = number(decays, "min_lr") or number(saved, "min_lr") or number(args, "min_lr") or 0.0
    if style not in STYLES:
        inexact.append(
            f"lr_decay_style {style} has no equivalent here: set lr-decay-style and lr-decay-iters "
            "in the run's config.yml before you go on"
        )
    elif style == "linear" and low:
        inexact.append(
            "Megatron's linear decay ends at min_lr; NeoX's formula, which is ours, stops there"
        )
    if args.get("lr_warmup_init"):
        inexact.append("Megatron's warm-up began above 0 (lr_warmup_init), ours begins at 0")
    return MegatronSchedule(
        position,
        max(0, step - position),
        lr or float(decays["lr"]),
        low,
        keys,
        notes + inexact,
    )


def _position(optimizer: MegatronOptimizer, step: int, unit: float | None) -> tuple[int, list[str]]:
    """Return the updates of the schedule, or else Adam's, which are as many for equal batches."""
    whole, updates, notes = number(optimizer.schedule, *AT), optimizer.step, []
    position = updates
    if unit and whole is not None:
        position = int(whole / unit)
        if whole % unit:
            notes.append(
                f"Megatron's schedule is at sample {whole:.0f}, which is not a whole number of "
                f"batches of {unit:g}: here it is at step {position}"
            )
    else:
        notes.append(
            "the files do not say where the schedule is (num_steps of opt_param_scheduler, and "
            f"global_batch_size): it goes on from Adam's {updates} updates"
        )
    if position >= 2**31:
        raise UserError(f"{AT[0]} is {whole:.0f}, expected no more than 2^31 batches")
    if position > step:
        notes.append(
            f"Megatron's schedule is at its step {position}, the run at {step}: the learning rate "
            f"goes on from there, but the log shows that of step {step}"
        )
    elif position != updates:
        notes.append(
            f"Adam made {updates} updates in {step} steps, but Megatron's schedule is at its step "
            f"{position}: the learning rate goes on from there, and the log counts "
            f"{step - position} skipped steps"
        )
    return position, notes


def _lengths(
    args: Mapping[str, Any], saved: Mapping[str, Any], unit: float | None
) -> tuple[dict[str, Any], list[str]]:
    length, warmup = number(saved, *LENGTH), number(saved, *WARMUP)
    if unit and length and warmup is not None:
        length, warmup = length / unit, warmup / unit
    else:
        length, warmup = _of_arguments(args)
    if length < 1:
        return {}, []
    notes = []
    if length % 1:
        notes.append(
            f"Megatron's learning rate decays for {length:g} steps, ours for {int(length)}"
        )
    return {"lr_decay_iters": int(length), "warmup": warmup / int(length)}, notes


def _of_arguments(args: Mapping[str, Any]) -> tuple[float, float]:
    """Return the steps of decay, warm-up included, and of warm-up; samples are converted."""
    batch = number(args, "global_batch_size")
    unit, counted = (batch, "samples") if batch and args.get("train_samples") else (1.0, "iters")
    decay = (
        (number(args, f"lr_decay_{counted}") or 0.0) / unit or number(args, "train_iters") or 0.0
    )
    fraction = number(args, "lr_warmup_fraction")
    if fraction is not None:
        return decay, fraction * decay
    return decay, (number(args, f"lr_warmup_{counted}") or 0.0) / unit


def number(values: Mapping[str, Any], *names: str) -> float | None:
    """Return the number of the first name that is there.

    Raises:
        UserError: it is not a number of at least 0.
    """
    name = next((name for name in names if values.get(name) is not None), None)
    if name is None:
        return None
    value = values[name]
    if type(value) not in (int, float) or not 0 <= value < 2.0**52 or math.isnan(value):
        raise UserError(f"{name} is {value!r}, expected a number from 0 on")
    return float(value)
