"""Moments that wait in the host's memory and are on the device only while they are updated."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from jaxneox.train.plan import TrainPlan

HOST = "pinned_host"
"""The kind of memory, as jax calls it."""

T = TypeVar("T")


def optimizer_tree(plan: TrainPlan, of: Callable[[str | None], T]) -> Any:
    """Make a tree like the optimizer's state.

    Args:
        plan: has the optimizer.
        of: makes a leaf from the name of the parameter of which it is a moment, or from None where
            it is something else: a count, or a sum of a factored optimizer.
    """
    shapes = {name: shape for name, shape in plan.model.shapes.items() if name in plan.trained}
    abstract = {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()}

    def leaf(path: Any, held: Any) -> T:
        names = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
        name = names[-1] if names else ""
        return of(name if shapes.get(name) == held.shape else None)

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(plan.optimizer.init, abstract))


def shardings_at_rest(plan: TrainPlan, shardings: Any) -> Any:
    """Move the shardings of an optimizer's state to the memory where each of its arrays waits."""

    def moved(sharding: NamedSharding, waits: bool) -> NamedSharding:
        return sharding.with_memory_kind(HOST) if waits else sharding

    return jax.tree.map(moved, shardings, _waiting(plan))


def to_device(plan: TrainPlan, opt_state: optax.OptState) -> optax.OptState:
    """Bring what waits in the host's memory to the device, inside a compiled step."""
    return _put(plan, opt_state, jax.memory.Space.Device)


def to_host(plan: TrainPlan, opt_state: optax.OptState) -> optax.OptState:
    """Put it back."""
    return _put(plan, opt_state, jax.memory.Space.Host)


def _put(plan: TrainPlan, opt_state: optax.OptState, space: Any) -> optax.OptState:
    if not plan.cfg.parallel.offload_optimizer:
        return opt_state
    return jax.tree.map(
        lambda x, waits: jax.device_put(x, space) if waits else x, opt_state, _waiting(plan)
    )


def _waiting(plan: TrainPlan) -> Any:
    """Tell of each array of the optimizer's state whether it waits in the host's memory."""
    offload = plan.cfg.parallel.offload_optimizer
    return optimizer_tree(plan, lambda name: offload and name is not None)
