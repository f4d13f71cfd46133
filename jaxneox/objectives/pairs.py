"""Pairs of a chosen and a rejected text, which pass the model side by side."""
# M micro-batches (or A accumulation steps), B pairs

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxneox.model import Layout, Noise


def side_by_side(x_MB2: jax.Array, layout: Layout) -> jax.Array:
    """Make rows [M, 2B, *] of pairs [M, B, 2, *]."""
    micro, pairs, _, *rest = x_MB2.shape
    spec = layout.activation(None, "batch", *(None,) * len(rest))
    return jnp.reshape(x_MB2, (micro, 2 * pairs, *rest), out_sharding=spec)


def in_pairs(x_MR: jax.Array) -> jax.Array:
    """Make pairs [M, B, 2, *] of rows [M, 2B, *]."""
    micro, rows, *rest = x_MR.shape
    partitions = jax.typeof(x_MR).sharding.spec.partitions
    spec = P(*partitions[:2], None, *partitions[2:])
    return jnp.reshape(x_MR, (micro, rows // 2, 2, *rest), out_sharding=spec)


def noise_of_pairs(noise: Noise | None, layout: Layout) -> Noise | None:
    """Number the rows of pairs: dropout is another in each of the two."""
    if noise is None:
        return None
    numbers = 2 * noise.rows[..., None] + jnp.arange(2, dtype=noise.rows.dtype)
    return noise._replace(rows=side_by_side(numbers, layout))
