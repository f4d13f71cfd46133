"""The state with which a run begins: new, or restored from a checkpoint."""

from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from jaxneox import checkpoint
from jaxneox.checkpoint import Damaged
from jaxneox.hosts import messages
from jaxneox.model import Params
from jaxneox.train.checkpoints.new_rows import with_new_rows, with_saved_rows
from jaxneox.train.checkpoints.resume import ResumePoint
from jaxneox.train.plan import TrainPlan
from jaxneox.train.step.state import (
    TrainState,
    new_state,
    on_mesh,
    state_specs,
    with_params,
)


def initial_state(plan: TrainPlan, mesh: Mesh, start: ResumePoint | None) -> TrainState:
    """Make the state of a new run, or restore it from the checkpoint that a run starts from."""
    abstract = abstract_state(plan, mesh)
    if start is None:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        return jax.jit(partial(new_state, plan), out_shardings=shardings)()
    if start.weights_only:
        return new_training(plan, mesh, start, abstract)
    params, training = messages.fail_together(Damaged, partial(restore, start, abstract))
    checkpoint.check_sums(start.location, params=params, training=training)
    return TrainState(params, **training)


def new_training(
    plan: TrainPlan, mesh: Mesh, start: ResumePoint, abstract: TrainState
) -> TrainState:
    """Take a checkpoint's weights alone, with new rows for the tokens that its model lacks."""
    saved = with_saved_rows(start.location, abstract.params, plan, mesh)
    read = partial(checkpoint.restore_params, start.location, saved)
    params = messages.fail_together(Damaged, read)
    checkpoint.check_sums(start.location, params=params)

    def fresh(params: Params) -> TrainState:
        return with_params(plan, with_new_rows(params, abstract.params))

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(fresh, out_shardings=shardings)(params)


def abstract_state(plan: TrainPlan, mesh: Mesh) -> TrainState:
    """Describe the train state as shapes with shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(partial(new_state, plan)),
        on_mesh(mesh, state_specs(plan)),
    )


def restore(
    start: ResumePoint, abstract: TrainState
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Read this process's parts of the arrays: parameters, and the rest of the state by name."""
    shapes: Any = abstract.params
    params = checkpoint.restore_params(start.location, shapes)
    return params, checkpoint.restore_training(start.location, training_part(abstract))


def training_part(state: TrainState) -> dict[str, Any]:
    """Return all of the state but its parameters, by name: a checkpoint's `training`."""
    return {name: value for name, value in state._asdict().items() if name != "params"}
