"""Figures of gradients and moments that a run logs if it is asked to."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxneox.model import Params
from jaxneox.train.plan import TrainPlan
from jaxneox.train.step.noise_scale import noise_figures
from jaxneox.train.step.offload import to_device
from jaxneox.train.step.state import TrainState


def measures(plan: TrainPlan, after: TrainState, grads: Params) -> dict[str, jax.Array]:
    """Compute the figures that the configuration asks for, each float32 [].

    Args:
        plan: of the run.
        after: the state that the step leaves.
        grads: the step's gradients, before they are clipped.
    """
    log, figures = plan.cfg.log, {}
    if log.grad_pct_zeros:
        figures["grad_pct_zeros"] = percent_of_zeros(grads)
    if log.optimizer_norms:
        figures |= moment_norms(to_device(plan, after.opt_state))
    if after.noise_scale is not None:
        figures |= noise_figures(after.noise_scale)
    return figures


def percent_of_zeros(grads: Params) -> jax.Array:
    """Compute how many of 100 gradients are exactly 0, over all parameters together."""
    counts = [jnp.mean(g == 0, dtype=jnp.float32) * g.size for g in grads.values()]
    return jnp.float32(100) * sum(counts) / sum(g.size for g in grads.values())


def moment_norms(opt_state: Any) -> dict[str, jax.Array]:
    """Compute the L2 norm of each kind of moment over all parameters, such as Adam's mu and nu."""
    squares: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        kinds = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
        if kinds and jnp.issubdtype(leaf.dtype, jnp.floating):
            name = f"optimizer_{kinds[-1]}_norm"
            squares[name] = squares.get(name, 0.0) + jnp.sum(jnp.square(leaf))
    return {name: jnp.sqrt(square) for name, square in squares.items()}
