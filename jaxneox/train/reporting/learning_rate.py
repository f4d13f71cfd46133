"""The learning rate that a run will have, in words, and what is wrong with it."""

import math

import numpy as np

from jaxneox.config.schema import ScheduleConfig
from jaxneox.console.units import counted
from jaxneox.errors import UserError
from jaxneox.optim.schedule import build_schedule

SAMPLED = 1000  # steps that are looked at between the corners of a schedule


def in_words(cfg: ScheduleConfig, last: int) -> str:
    """Describe a schedule on one line, and where in it a run of `last` steps ends."""
    warmup, end = math.ceil(cfg.warmup_iters), cfg.decay_iters
    text = f"warms up to {cfg.lr:.1e} over {counted(warmup, 'step')}, then " if warmup > 0 else ""
    if cfg.style == "constant":
        text += f"stays at {cfg.lr:.1e}"
    else:
        begin = "" if warmup > 0 else f"from {cfg.lr:.1e} "
        text += f"{cfg.style} {begin}to {_rate(cfg, end):.1e} at step {end:,}"
        if last > end and not cfg.neox_head:
            text += ", where it stays"
    if 0 < last < end or last <= warmup:
        text += f"; this run ends at step {last:,}, with {_rate(cfg, last - 1):.1e}"
    return f"learning rate: {text}"


def check(cfg: ScheduleConfig, first: int, last: int) -> None:
    """Refuse a run whose steps from `first` to before `last` all have the learning rate 0.

    Raises:
        UserError: with the reason and what to set.
    """
    corners = (first, first + 1, math.ceil(cfg.warmup_iters), cfg.decay_iters, last - 1)
    steps = np.array([*corners, *np.linspace(first, last - 1, SAMPLED).round()])
    steps = steps[(steps >= first) & (steps < last)]
    if np.asarray(build_schedule(cfg, np)(steps)).any():
        return
    what = f"all {last - first} steps" if last - first > 1 else "the one step"
    if not cfg.lr:
        advice = "optimizer.params.lr is 0: set it"
    elif first < cfg.warmup_iters:
        advice = "a warm-up begins at 0: train longer (--set train-iters=N), or --set warmup=0"
    else:
        advice = (
            f"the decay has ended at step {cfg.decay_iters}: set lr-decay-iters to where the run "
            "ends, or min-lr to the rate that it keeps"
        )
    raise UserError(f"{what} of this run would have learning rate 0 and learn nothing: {advice}")


def notes(
    cfg: ScheduleConfig, before: ScheduleConfig | None, first: int, last: int
) -> tuple[str, ...]:
    """Say what a run's schedule has that its user may not know.

    Args:
        cfg: the run's schedule.
        before: the schedule of the checkpoint that the run goes on from; None for a new run, and if
            only weights are taken.
        first: the steps that are done.
        last: the step at which the run ends.
    """
    lines: tuple[str, ...] = ()
    if first < last <= cfg.warmup_iters:
        lines += (
            f"all {last - first} steps lie in the warm-up of {math.ceil(cfg.warmup_iters):,}: the "
            f"rate never reaches {cfg.lr:.1e}; if that is the warm-up of a longer run, "
            f"give this one its own with --set lr-decay-iters={last} warmup=0.01",
        )
    if before is not None and before != cfg and 0 < first < last:
        old, new = _rate(before, first), _rate(cfg, first)
        changed = [
            f"{key} was {getattr(before, name):g} and is {getattr(cfg, name):g}"
            for key, name in (
                ("lr-decay-iters", "decay_iters"),
                ("the warm-up", "warmup_iters"),
                ("lr", "lr"),
                ("min-lr", "min_lr"),
            )
            if getattr(before, name) != getattr(cfg, name)
        ] or ["its form is another"]
        lines += (
            f"the checkpoint's learning rate followed another schedule ({', '.join(changed)}): "
            f"step {first + 1} has {new:.2e} where it would have had {old:.2e}",
        )
        if before.decay_iters != cfg.decay_iters:
            lines = (
                *lines[:-1],
                f"{lines[-1]}; to keep that schedule, --set lr-decay-iters={before.decay_iters}",
            )
    return lines


def _rate(cfg: ScheduleConfig, step: int) -> float:
    return float(build_schedule(cfg, np)(max(step, 0)))
