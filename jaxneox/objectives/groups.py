"""Sums over rows, and statistics of groups of them: of NeoX's micro-batches."""
# M micro-batches, A accumulation steps, B rows of one, g rows of a group

import jax
import jax.numpy as jnp

from jaxneox.model import Layout
from jaxneox.objectives.objective import Sums


def weighted_sums(
    weights_MB: jax.Array, loss_MB: jax.Array, figures_MB: Sums
) -> tuple[jax.Array, Sums]:
    """Sum the loss and each figure of rows, by the weights of the rows."""
    figures = {name: jnp.sum(weights_MB * x) for name, x in figures_MB.items()}
    return jnp.sum(weights_MB * loss_MB), figures


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
