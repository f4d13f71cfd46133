"""SM3 as NeoX has it, on top of optax's."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def scale_by_sm3(momentum: float, beta: float, eps: float) -> optax.GradientTransformation:
    """Scale by SM3-II (Anil et al. 2019). The accumulators of rows and columns never fall.

    With `beta` 0 squared gradients are added up for ever; otherwise they enter a moving average
    with that weight, of which the accumulators keep the greatest value so far, where optax would
    let them fall again (megatron/optimizers.py, SM3).
    """
    inner = optax.scale_by_sm3(b1=momentum, b2=beta or 1.0, eps=eps)

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Any]:
        updates, after = inner.update(updates, state, params)
        return updates, after._replace(mu=jax.tree.map(jnp.maximum, after.mu, state.mu))

    return optax.GradientTransformation(inner.init, update)
