"""Activations times a constant of the model (`jaxneox.config.widths.Multipliers`)."""

import jax
import jax.numpy as jnp


def multiplied(x: jax.Array, factor: float) -> jax.Array:
    """Multiply in float32 and round once to the dtype of x; a factor of 1 computes nothing.

    The factor itself would otherwise be rounded to the dtype, the same way for all activations.
    """
    if factor == 1.0:
        return x
    return (x.astype(jnp.promote_types(x.dtype, jnp.float32)) * factor).astype(x.dtype)
