"""The state with which a run begins: new, or restored from a checkpoint."""

from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxneox import base_model, checkpoint
from jaxneox.base_model import META
from jaxneox.checkpoint import Damaged, Location
from jaxneox.hosts import messages
from jaxneox.model import Params, lora
from jaxneox.train.checkpoints import heads, noise, reference
from jaxneox.train.checkpoints.new_rows import with_new_rows, with_saved_rows
from jaxneox.train.checkpoints.resume import Base, ResumePoint
from jaxneox.train.plan import TrainPlan
from jaxneox.train.step.state import (
    TrainState,
    dtype_of,
    new_state,
    state_shardings,
    trained,
    with_params,
)


def initial_state(
    plan: TrainPlan, mesh: Mesh, start: ResumePoint | None, base: Base | None = None
) -> TrainState:
    """Make the state of a new run, or restore it from the checkpoint that a run starts from.

    Args:
        plan: of the run.
        mesh: the devices.
        start: the checkpoint; None for a new run.
        base: the model whose parameters stand beside those that are trained, if the checkpoint has
            the latter alone.
    """
    abstract = abstract_state(plan, mesh)
    if start is not None and not start.weights_only:
        abstract = noise.as_saved(start.location, plan, mesh, abstract)
    if base is not None:
        return beside(plan, mesh, start, base, abstract)
    if start is None:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        return counted(jax.jit(partial(new_state, plan), out_shardings=shardings)(), shardings)
    if start.weights_only:
        return new_training(plan, mesh, start, abstract)
    params, training = messages.fail_together(Damaged, partial(restore, start, abstract))
    checkpoint.check_sums(start.location, params=params, training=training)
    training = noise.as_asked(training, plan, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract.params)

    def drawn() -> Params:
        return jax.jit(lambda: new_state(plan).params, out_shardings=shardings)()

    def read(location: Location) -> Params:
        params = starting_params(plan, mesh, location, abstract)
        return jax.jit(partial(completed, plan, abstract), out_shardings=shardings)(params)

    return TrainState(params, **training, reference=reference.restored(plan, start, drawn, read))


def counted(state: TrainState, shardings: TrainState) -> TrainState:
    """Put the counts of a new run in place at once: who reads them does not wait for its arrays.

    The step is traced and compiled while the parameters are still being drawn.
    """
    counts = ("step", "skipped", "streak")
    zeros = {name: np.zeros((), np.int32) for name in counts}
    laid = {name: jax.device_put(zero, getattr(shardings, name)) for name, zero in zeros.items()}
    return state._replace(**laid)


def beside(
    plan: TrainPlan, mesh: Mesh, start: ResumePoint | None, base: Base, abstract: TrainState
) -> TrainState:
    """Make the state of a run that trains parameters beside those of a base."""
    shapes: Any = abstract.params
    heads.check_trained(base.where, checkpoint.read_shapes(base.location), plan)
    unlearned = {name: leaf for name, leaf in shapes.items() if not fnmatchcase(name, lora.PATTERN)}
    theirs, own = heads.there(base.location, unlearned), trained(plan, shapes)
    left_out = heads.without_unembedding(plan.model.cfg)
    read = partial(checkpoint.restore_params, base.location, theirs, left_out)
    params = messages.fail_together(Damaged, read)
    checkpoint.check_sums(base.location, params=params)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    if start is not None:
        recorded = checkpoint.read_meta(start.location)[META]
        sums = checkpoint.params_sums(base.location, params)
        base_model.check(recorded, base.where, sums, start.location.folder)

    def read_own(location: Location) -> Params:
        restore_own = partial(checkpoint.restore_params, location, own)
        ours: Params = messages.fail_together(Damaged, restore_own)
        checkpoint.check_sums(location, params=ours)
        return ours

    def fresh(params: Params) -> TrainState:
        drawn = plan.model.init(jax.random.key(plan.cfg.train.seed))
        return with_params(plan, drawn | params)

    if start is not None and not start.weights_only:
        read_all = partial(restore, start, abstract._replace(params=own))
        ours, training = messages.fail_together(Damaged, read_all)
        checkpoint.check_sums(start.location, params=ours, training=training)
        training = noise.as_asked(training, plan, mesh)

        def drawn() -> Params:
            begun = jax.jit(lambda params: fresh(params).params, out_shardings=shardings.params)
            return begun(params)

        before = reference.restored(plan, start, drawn, read_own)
        return TrainState(params | ours, **training, reference=before)
    if start is not None:
        params |= read_own(start.location)
    return jax.jit(fresh, out_shardings=shardings)(params)


def new_training(
    plan: TrainPlan, mesh: Mesh, start: ResumePoint, abstract: TrainState
) -> TrainState:
    """Take a checkpoint's weights alone."""
    params = starting_params(plan, mesh, start.location, abstract)

    def fresh(params: Params) -> TrainState:
        return with_params(plan, completed(plan, abstract, params))

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(fresh, out_shardings=shardings)(params)


def starting_params(
    plan: TrainPlan, mesh: Mesh, location: Location, abstract: TrainState
) -> Params:
    """Read the parameters that a new training takes of a checkpoint."""
    known = heads.there(location, abstract.params)
    saved = with_saved_rows(location, known, plan, mesh)
    left_out = heads.without_unembedding(plan.model.cfg)
    read = partial(checkpoint.restore_params, location, saved, left_out)
    params: Params = messages.fail_together(Damaged, read)
    checkpoint.check_sums(location, params=params)
    return params


def completed(plan: TrainPlan, abstract: TrainState, params: Params) -> Params:
    """Add new rows for the tokens that a model lacks, and a new head for the rewards."""
    return heads.with_new_head(with_new_rows(params, abstract.params), plan)


def abstract_state(plan: TrainPlan, mesh: Mesh) -> TrainState:
    """Describe the train state as shapes with shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(partial(with_params, plan), abstract_params(plan)),
        state_shardings(plan, mesh),
    )


def abstract_params(plan: TrainPlan) -> dict[str, jax.ShapeDtypeStruct]:
    """Describe the parameters by their shapes and dtypes; nothing is traced for it."""
    shapes = plan.model.shapes.items()
    return {n: jax.ShapeDtypeStruct(shape, dtype_of(plan, n)) for n, shape in shapes}


def restore(
    start: ResumePoint, abstract: TrainState
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Read this process's parts of the arrays: parameters, and the rest of the state by name."""
    shapes: Any = abstract.params
    params = checkpoint.restore_params(start.location, shapes)
    return params, checkpoint.restore_training(start.location, training_part(abstract))


def training_part(state: TrainState) -> dict[str, Any]:
    """Return all of the state but parameters, by name: a checkpoint's `training`."""
    params = ("params", "reference")
    parts = {name: value for name, value in state._asdict().items() if name not in params}
    return {name: value for name, value in parts.items() if value is not None}
