"""The state with which a run begins: new, or restored from a checkpoint."""

from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from jaxneox import checkpoint
from jaxneox.checkpoint import Damaged
from jaxneox.hosts import messages
from jaxneox.train.checkpoints.resume import ResumePoint
from jaxneox.train.plan import TrainPlan
from jaxneox.train.step.state import (
    TrainState,
    new_state,
    on_mesh,
    param_specs,
    state_specs,
    with_params,
)


def initial_state(plan: TrainPlan, mesh: Mesh, start: ResumePoint | None) -> TrainState:
    """Make the state of a new run, or restore it from the checkpoint that a run starts from."""
    cfg, abstract = plan.cfg, abstract_state(plan, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    if start is None:
        new = partial(new_state, cfg, plan.model, plan.optimizer)
        return jax.jit(new, out_shardings=shardings)()
    params, training = messages.fail_together(Damaged, partial(restore, start, abstract))
    if start.weights_only:
        checkpoint.check_sums(start.location, params=params)
        fresh = jax.jit(partial(with_params, cfg, plan.optimizer), out_shardings=shardings)
        return fresh(params)
    checkpoint.check_sums(start.location, params=params, training=training)
    return TrainState(params, **training)


def abstract_state(plan: TrainPlan, mesh: Mesh) -> TrainState:
    """Describe the train state as shapes with shardings."""
    specs = state_specs(plan.model, plan.optimizer, param_specs(plan.model, plan.rules))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(partial(new_state, plan.cfg, plan.model, plan.optimizer)),
        on_mesh(mesh, specs),
    )


def restore(
    start: ResumePoint, abstract: TrainState
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Read this process's parts of the arrays: parameters, and the rest of the state by name."""
    shapes: Any = abstract.params
    params = checkpoint.restore_params(start.location, shapes)
    if start.weights_only:
        return params, {}
    return params, checkpoint.restore_training(start.location, training_part(abstract))


def training_part(state: TrainState) -> dict[str, Any]:
    """Return all of the state but its parameters, by name: a checkpoint's `training`."""
    return {name: value for name, value in state._asdict().items() if name != "params"}
