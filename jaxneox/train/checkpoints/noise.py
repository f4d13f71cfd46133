"""The noise scale's state in checkpoints, of runs that do or do not measure it any more.

It is a figure, so that a run may begin to log it, or end to, without another training.
"""

from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from jaxneox import checkpoint
from jaxneox.checkpoint import Damaged, Location
from jaxneox.hosts import messages
from jaxneox.train.plan import TrainPlan
from jaxneox.train.step.noise_scale import NoiseScale, no_estimate
from jaxneox.train.step.state import TrainState, noise_specs, on_mesh, param_specs, trained

FIELD = "noise_scale"
"""Its name in the state and in checkpoints."""


def as_saved(location: Location, plan: TrainPlan, mesh: Mesh, abstract: TrainState) -> TrainState:
    """Describe the state as the checkpoint has it: with the noise scale's, or without."""
    if not (location.folder / "training").is_dir():
        return abstract  # an error that the reader says better
    read = partial(checkpoint.read_shapes, location, "training")
    names: dict[str, tuple[int, ...]] = messages.fail_together(Damaged, read)
    there = any(name.startswith(f"{FIELD}.") for name in names)
    return abstract._replace(noise_scale=_abstract(plan, mesh) if there else None)


def as_asked(training: dict[str, Any], plan: TrainPlan, mesh: Mesh) -> dict[str, Any]:
    """Return what was read with the noise scale's state as the run measures it, new if need be."""
    kept = {name: part for name, part in training.items() if name != FIELD}
    if not plan.cfg.log.noise_scale:
        return kept
    if FIELD in training:
        return kept | {FIELD: NoiseScale(*training[FIELD])}
    shardings = jax.tree.map(lambda leaf: leaf.sharding, _abstract(plan, mesh))
    new = partial(no_estimate, trained(plan, plan.model.shapes))
    return kept | {FIELD: jax.jit(new, out_shardings=shardings)()}


def _abstract(plan: TrainPlan, mesh: Mesh) -> NoiseScale:
    """Describe the noise scale's state as shapes with shardings."""
    specs: Any = noise_specs(plan, param_specs(plan.model, plan.rules).updates)
    found: NoiseScale = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(partial(no_estimate, trained(plan, plan.model.shapes))),
        on_mesh(mesh, specs),
    )
    return found
