"""Dropout that is the same on every mesh and for every split of the batch.

A mask depends on the step, the layer, the place in the layer and the row's number in the global
batch, never on the device that computes it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P


class Noise(NamedTuple):
    """The source of one forward pass's masks. `rows` int32 [B]: numbers in the global batch."""

    key: jax.Array
    rows: jax.Array

    def at(self, place: int | jax.Array) -> "Noise":
        return Noise(jax.random.fold_in(self.key, place), self.rows)


def dropout(x: jax.Array, rate: float, noise: Noise | None) -> jax.Array:
    """x [B, ...]: each element is zero with probability `rate`, the others grow to make up."""
    if noise is None or rate == 0.0:
        return x
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(noise.key, noise.rows)
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys_B)
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))


def dropout_heads(x: jax.Array, rate: float, noise: Noise | None) -> jax.Array:
    """The same for x [B, K, G, ...], with masks drawn head by head where the heads lie."""
    if noise is None or rate == 0.0:
        return x
    spec = P(*jax.typeof(x).sharding.spec[:2])
    rows_BK = jnp.broadcast_to(noise.rows[:, None], x.shape[:2], out_sharding=spec)
    heads_BK = jax.lax.broadcasted_iota(jnp.int32, x.shape[:2], 1, out_sharding=spec)

    def keep(row: jax.Array, head: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(noise.key, row), head)
        return jax.random.bernoulli(key, 1 - rate, x.shape[2:])

    mask = jax.vmap(jax.vmap(keep))(rows_BK, heads_BK)
    return jnp.where(mask, x / (1 - rate), jnp.zeros((), x.dtype))
