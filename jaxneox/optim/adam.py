"""Adam, with or without the correction of its moments' bias."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from jaxneox.config.schema import OptimizerConfig


def scale_by_adam(cfg: OptimizerConfig) -> optax.GradientTransformation:
    """Build Adam's direction (Kingma and Ba 2014, algorithm 1), without rate and decay.

    Without `bias_correction` the moments count as they are, though they start at 0 (DeepSpeed's
    and Apex's `bias_correction: false`). The state is that of optax's Adam either way.
    """
    corrected = optax.scale_by_adam(*cfg.betas, eps=cfg.eps)
    if cfg.bias_correction:
        return corrected

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        _, after = corrected.update(updates, state, params)
        moments = cast(Any, after)
        directions = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + cfg.eps), moments.mu, moments.nu)
        return directions, after

    return optax.GradientTransformation(corrected.init, update)
