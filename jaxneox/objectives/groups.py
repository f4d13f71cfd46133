"""Statistics of groups of rows: of NeoX's micro-batches, or of the whole batch."""
# A accumulation steps, B rows of one, g rows of a group

import jax
import jax.numpy as jnp

from jaxneox.model import Layout


def in_groups(x_AB: jax.Array, size: int, layout: Layout) -> jax.Array:
    """Cut rows [A, B] into groups of `size` rows that follow one another: [A, B / g, g]."""
    accumulation, rows = x_AB.shape
    spec = layout.activation(None, "batch", None)
    return jnp.reshape(x_AB, (accumulation, rows // size, size), out_sharding=spec)


def in_rows(x_AGg: jax.Array, layout: Layout) -> jax.Array:
    """Join groups of rows [A, B / g, g] again: [A, B]."""
    accumulation, groups, size = x_AGg.shape
    spec = layout.activation(None, "batch")
    return jnp.reshape(x_AGg, (accumulation, groups * size), out_sharding=spec)


def micro_means(x_AB: jax.Array, size: int, layout: Layout) -> jax.Array:
    """Give each row the mean over its micro-batch of `size` rows: [A, B]."""
    x_AGg = in_groups(x_AB, size, layout)
    means = jnp.mean(x_AGg, axis=-1, keepdims=True)
    return in_rows(jnp.broadcast_to(means, x_AGg.shape), layout)
