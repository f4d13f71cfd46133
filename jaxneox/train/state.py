"""Everything that a run carries from step to step, and where each of its arrays lies."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxneox.config.schema import Config
from jaxneox.model import Model, Params
from jaxneox.parallel.rules import Rules
from jaxneox.train.scaler import Scale, initial_scale

Specs = dict[str, P]


class TrainState(NamedTuple):
    """`step` counts batches seen, `skipped` those without an update, `streak` the latest run."""

    params: Params
    opt_state: optax.OptState
    scale: Scale
    step: jax.Array  # int32 []
    skipped: jax.Array  # int32 []
    streak: jax.Array  # int32 []


class Places(NamedTuple):
    """The shardings of parameters at rest and in a step of several micro-batches, of gradients as
    these add them up, and of updates."""

    params: Specs
    lent: Specs
    gradients: Specs
    updates: Specs


def places(model: Model, rules: Rules) -> Places:
    def specs(rule) -> Specs:
        return {name: rule(name, axes, model.shapes[name]) for name, axes in model.axes.items()}

    kinds = (rules.parameter, rules.lent, rules.gradient, rules.optimizer)
    return Places(*map(specs, kinds))


def optimizer_specs(model: Model, optimizer: optax.GradientTransformation, updates: Specs) -> Any:
    """A tree like the optimizer's state. What has a parameter's name and shape lies as its update
    does; counts and the row and column sums of factored optimizers are whole on every device."""
    abstract = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in model.shapes.items()}

    def spec(path, leaf) -> P:
        names = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
        name = names[-1] if names else ""
        return updates[name] if model.shapes.get(name) == leaf.shape else P()

    return jax.tree_util.tree_map_with_path(spec, jax.eval_shape(optimizer.init, abstract))


def state_specs(model: Model, optimizer: optax.GradientTransformation, at: Places) -> Any:
    """A TrainState of PartitionSpecs."""
    whole: Any = P()
    params: Any = at.params
    opt_state = optimizer_specs(model, optimizer, at.updates)
    return TrainState(params, opt_state, Scale(whole, whole, whole), whole, whole, whole)


def on_mesh(mesh: Mesh, specs):
    """The tree of PartitionSpecs as shardings of one mesh."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda s: isinstance(s, P)
    )


def new_state(cfg: Config, model: Model, optimizer: optax.GradientTransformation) -> TrainState:
    """Step 0, from the seed alone: the same numbers on every mesh."""
    params = model.init(jax.random.key(cfg.train.seed))
    return with_params(cfg, optimizer, params)


def with_params(cfg: Config, optimizer: optax.GradientTransformation, params: Params) -> TrainState:
    scale = initial_scale(cfg.precision.loss_scale)
    counts = (jnp.zeros((), jnp.int32) for _ in range(3))  # each an array of its own, to be donated
    return TrainState(params, optimizer.init(params), scale, *counts)
