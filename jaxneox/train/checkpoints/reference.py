"""The reference model of a run: the model as it was at the run's start.

It has for itself the parameters that are trained; the others are those of the run. A checkpoint
does not hold them a second time. Its `meta` says from which checkpoint the run began (beside a
base, from which adapter), or with which seed; a run that resumes reads or draws them again.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxneox import base_model, checkpoint
from jaxneox.checkpoint import Location
from jaxneox.config import Config
from jaxneox.errors import UserError
from jaxneox.loading.load import locate
from jaxneox.model import Params
from jaxneox.train.checkpoints.resume import ResumePoint
from jaxneox.train.plan import TrainPlan
from jaxneox.train.step.state import TrainState, reference_of

META = "reference"
"""The entry of a checkpoint's `meta`: `where` and `fingerprint`, or `seed` and `init`."""


def recorded(cfg: Config, start: ResumePoint | None, state: TrainState) -> dict[str, Any] | None:
    """Describe for checkpoints the parameters with which a run began; None if it needs none.

    Args:
        cfg: of the run.
        start: the checkpoint that it starts from; None for new parameters.
        state: with which it starts.
    """
    if state.reference is None:
        return None
    if start is None:
        return drawn_by(cfg)
    before: dict[str, Any] | None = checkpoint.read_meta(start.location).get(META)
    if before is not None and not start.weights_only:
        return before
    sums = checkpoint.params_sums(start.location, state.reference)
    return base_model.record(str(start.location.folder.resolve()), sums)


def drawn_by(cfg: Config) -> dict[str, Any]:
    """Return what decides the parameters that a run draws, as JSON."""
    init = {name: str(value) for name, value in dataclasses.asdict(cfg.model.init).items()}
    return {"seed": cfg.train.seed, "init": init}


def restored(
    plan: TrainPlan,
    start: ResumePoint,
    drawn: Callable[[], Params],
    read: Callable[[Location], Params],
) -> Params | None:
    """Return the trained parameters with which the run of a checkpoint began.

    Args:
        plan: of the run that resumes.
        start: its checkpoint.
        drawn: draws new parameters from the run's seed.
        read: reads a checkpoint's parameters as a run begins with them.

    Returns:
        What the reference model has for itself; None if the run compares with no such model.

    Raises:
        UserError: they are not there, or others than they were.
    """
    if plan.reference is None:
        return None
    meta: dict[str, Any] | None = checkpoint.read_meta(start.location).get(META)
    if meta is None:  # its run was another kind of training, which ends here
        return reference_of(plan, read(start.location))
    if "seed" in meta:
        for name, now in drawn_by(plan.cfg).items():
            if (then := meta[name]) != now:
                raise UserError(
                    f"{name}: the reference model of {start.location.run} was drawn with {then}, "
                    f"found {now}; set it back"
                )
        return reference_of(plan, drawn())
    location = _found(plan.cfg, meta["where"], start)
    params = reference_of(plan, read(location))
    assert params is not None
    sums = checkpoint.params_sums(location, params)
    base_model.check(meta, str(location.folder), sums, start.location.folder)
    return params


def _found(cfg: Config, where: str, start: ResumePoint) -> Location:
    """Find the checkpoint again, where it was or where `load` says that it is now."""
    places = [where] if cfg.checkpoint.load is None else [where, cfg.checkpoint.load]
    for place in places:
        if Path(place).is_dir():
            return locate(place, None if place == where else cfg.checkpoint.iteration)
    raise UserError(
        f"{start.location.folder}: its reference model, {where}, is not there any more: name the "
        "folder where it is now with --load"
    )
