"""Dropout that is the same on every mesh and for every split of the batch.

A mask depends on the step, the layer, the place in the layer, the row's number in the global batch
and the position in the sequence, never on the device that computes it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P


class Noise(NamedTuple):
    """The source of one forward pass's masks.

    `rows` int32 [M, B] or [B] are numbers in the global batch, `positions` int32 [T] those of the
    sequence in the order in which it lies; the model knows them.
    """

    key: jax.Array
    rows: jax.Array
    positions: jax.Array | None = None

    def at(self, place: int | jax.Array) -> "Noise":
        return self._replace(key=jax.random.fold_in(self.key, place))


def dropout(x: jax.Array, rate: float, noise: Noise | None) -> jax.Array:
    """x [(M,) B, T, D]: each element is zero with probability `rate`; the others make up for it."""
    if noise is None or rate == 0.0:
        return x
    assert noise.positions is not None
    spec, outer = P(*jax.typeof(x).sharding.spec[:-1]), x.shape[:-1]
    rows = _laid(noise.rows[..., None], outer, spec)
    positions = _laid(noise.positions.reshape(*(1,) * (x.ndim - 2), -1), outer, spec)

    def keep(row: jax.Array, position: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(noise.key, row), position)
        return jax.random.bernoulli(key, 1 - rate, x.shape[-1:])

    for _ in outer:
        keep = jax.vmap(keep)
    return jnp.where(keep(rows, positions), x / (1 - rate), jnp.zeros((), x.dtype))


def dropout_heads(x: jax.Array, rate: float, noise: Noise | None) -> jax.Array:
    """The same for x [B, K, G, T, S], all in the order of positions, with masks drawn head by head
    where the heads lie."""
    if noise is None or rate == 0.0:
        return x
    spec = P(*jax.typeof(x).sharding.spec[:2])
    rows_BK = _laid(noise.rows[:, None], x.shape[:2], spec)
    heads_BK = _laid(jnp.arange(x.shape[1], dtype=jnp.int32)[None], x.shape[:2], spec)

    def keep(row: jax.Array, head: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(noise.key, row), head)
        return jax.random.bernoulli(key, 1 - rate, x.shape[2:])

    mask = jax.vmap(jax.vmap(keep))(rows_BK, heads_BK)
    return jnp.where(mask, x / (1 - rate), jnp.zeros((), x.dtype))


def _laid(x: jax.Array, shape: tuple[int, ...], spec: P) -> jax.Array:
    """Broadcast, and laid out so even where the shape was that already; a dimension of one is left
    whole, since random numbers for it forget the axis of one device that would split it."""
    names = (None if size == 1 else name for size, name in zip(shape, spec, strict=True))
    return jax.reshard(jnp.broadcast_to(x, shape), P(*names))
