"""Everything that a run carries from step to step, and how each of its arrays is sharded."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxneox.model import Model, Params
from jaxneox.parallel.rules import Rules
from jaxneox.train.plan import TrainPlan
from jaxneox.train.step.noise_scale import NoiseScale, no_estimate
from jaxneox.train.step.offload import optimizer_tree, shardings_at_rest
from jaxneox.train.step.scaler import Scale, initial_scale

Specs = dict[str, P]
T = TypeVar("T")


class TrainState(NamedTuple):
    """The parameters, the optimizer's state and the counts of a run.

    Parameters that are not trained are among the parameters and in nothing else. The names of its
    fields are those in checkpoints, which do not have the reference; `noise_scale` is there only
    where it is measured. `step` counts batches seen,
    `skipped` those without an update, `streak` those skipped in a row until now.
    """

    params: Params
    opt_state: optax.OptState
    scale: Scale
    step: jax.Array  # int32 []
    skipped: jax.Array  # int32 []
    streak: jax.Array  # int32 []
    reference: Params | None = None  # what is trained as it began, if it is compared with that
    noise_scale: NoiseScale | None = None  # of the gradients

    @property
    def updates(self) -> jax.Array:
        """How often the parameters were updated: what the schedule counts."""
        return self.step - self.skipped


class ParamSpecs(NamedTuple):
    """The shardings of parameters, and of arrays that are like them, by parameter name.

    Attributes:
        params: of parameters at rest.
        in_step: of parameters in a step of several micro-batches.
        gradients: of gradients while micro-batches add them up.
        updates: of moments, and of parameters while they are updated.
    """

    params: Specs
    in_step: Specs
    gradients: Specs
    updates: Specs


def param_specs(model: Model, rules: Rules, typed: bool = True) -> ParamSpecs:
    """Apply the rules to every parameter.

    Args:
        model: declares them.
        rules: the shardings.
        typed: whether gradients may be partial sums while they are added up, see `Objective`.
    """

    def specs(rule: Callable[[str, tuple[str, ...], tuple[int, ...]], P]) -> Specs:
        return {name: rule(name, axes, model.shapes[name]) for name, axes in model.axes.items()}

    kinds = (rules.parameter, rules.in_step, rules.gradient, rules.optimizer)
    found = ParamSpecs(*map(specs, kinds))
    if typed:
        return found
    gradients = {name: P(*spec.partitions) for name, spec in found.gradients.items()}
    return found._replace(in_step=found.params, gradients=gradients)


def trained(plan: TrainPlan, tree: dict[str, T]) -> dict[str, T]:
    """Take what belongs to the parameters that are trained, by name."""
    return {name: value for name, value in tree.items() if name in plan.trained}


def frozen(plan: TrainPlan, tree: dict[str, T]) -> dict[str, T]:
    """Take what belongs to the parameters that stay as they are, by name."""
    return {name: value for name, value in tree.items() if name not in plan.trained}


def reference_of(plan: TrainPlan, tree: dict[str, T]) -> dict[str, T] | None:
    """Take what the reference model has for itself, by name; None if there is no such model."""
    return {name: tree[name] for name in sorted(plan.copied)} if plan.copied else None


def dtype_of(plan: TrainPlan, name: str) -> str:
    """Return the dtype in which a parameter is held."""
    return "float32" if name in plan.trained else plan.cfg.precision.base


def optimizer_specs(plan: TrainPlan, updates: Specs) -> Any:
    """Make a tree of PartitionSpecs like the optimizer's state.

    What has a parameter's name and shape is sharded as its update is; counts, and the row and
    column sums of factored optimizers, are whole on every device.
    """
    return optimizer_tree(plan, lambda name: P() if name is None else updates[name])


def state_specs(plan: TrainPlan) -> Any:
    """Make a TrainState of PartitionSpecs."""
    whole: Any = P()
    specs: Any = param_specs(plan.model, plan.rules)
    return TrainState(
        params=specs.params,
        opt_state=optimizer_specs(plan, specs.updates),
        scale=Scale(whole, whole, whole),
        step=whole,
        skipped=whole,
        streak=whole,
        reference=reference_of(plan, specs.params),
        noise_scale=noise_specs(plan, specs.updates) if plan.cfg.log.noise_scale else None,
    )


def noise_specs(plan: TrainPlan, updates: Specs) -> Any:
    """Make a NoiseScale of PartitionSpecs, whose sums lie where moments do."""
    whole: Any = P()
    sums: Any = trained(plan, updates)
    return NoiseScale(sums, *(whole,) * 5)


def new_noise(plan: TrainPlan) -> NoiseScale | None:
    """Make the noise scale's state before the first step; None where it is not measured."""
    return no_estimate(trained(plan, plan.model.shapes)) if plan.cfg.log.noise_scale else None


def state_shardings(plan: TrainPlan, mesh: Mesh) -> Any:
    """Make a TrainState of shardings on a mesh, each in the memory where its array waits."""
    shardings: Any = on_mesh(mesh, state_specs(plan))
    return shardings._replace(opt_state=shardings_at_rest(plan, shardings.opt_state))


def on_mesh(mesh: Mesh, specs: Any) -> Any:
    """Turn a tree of PartitionSpecs into shardings of one mesh."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda s: isinstance(s, P)
    )


def new_state(plan: TrainPlan) -> TrainState:
    """Make the state of step 0 from the seed alone: the same numbers on every mesh."""
    params = plan.model.init(jax.random.key(plan.cfg.train.seed))
    return with_params(plan, {name: w.astype(dtype_of(plan, name)) for name, w in params.items()})


def with_params(plan: TrainPlan, params: Params) -> TrainState:
    """Make the state of step 0 with these parameters."""
    return TrainState(
        params=params,
        opt_state=plan.optimizer.init(trained(plan, params)),
        scale=initial_scale(plan.cfg.precision.loss_scale),
        step=jnp.zeros((), jnp.int32),  # each count is an array of its own, to be donated
        skipped=jnp.zeros((), jnp.int32),
        streak=jnp.zeros((), jnp.int32),
        reference=jax.tree.map(jnp.copy, reference_of(plan, params)),
        noise_scale=new_noise(plan),
    )
