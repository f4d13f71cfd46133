"""Dropout that is the same on every mesh and for every split of the batch.

A mask depends on the step, the layer, the place in the layer, the row's number in the global batch
and the position in the sequence, never on the device that computes it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P


class Noise(NamedTuple):
    """The source of one forward pass's dropout masks.

    Attributes:
        key: the random key of the step, or of one place in the model.
        rows: int32 [M, B] or [B], the rows' numbers in the global batch.
        positions: int32 [T], the positions of the sequence in the layout's order; the model sets
            them.
    """

    key: jax.Array
    rows: jax.Array
    positions: jax.Array | None = None

    def at(self, place: int | jax.Array) -> "Noise":
        """Return the source for one place in the model, independent of all others."""
        return self._replace(key=jax.random.fold_in(self.key, place))


def dropout(x: jax.Array, rate: float, noise: Noise | None) -> jax.Array:
    """Set elements of x [(M,) B, T, D] to zero with probability `rate`, and scale up the others."""
    if noise is None or rate == 0.0:
        return x
    return jnp.where(keep_mask(x, rate, noise), x / (1 - rate), jnp.zeros((), x.dtype))


def keep_mask(x: jax.Array, rate: float, noise: Noise) -> jax.Array:
    """Draw which elements of x [(M,) B, T, D] stay, bool, whole along D on every device."""
    return _drawn(x, noise, lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[-1:]))


def uniform(x: jax.Array, low: float, high: float, noise: Noise) -> jax.Array:
    """Draw a number from `low` to `high` for each element of x [(M,) B, T, D], float32."""
    return _drawn(
        x, noise, lambda key: jax.random.uniform(key, x.shape[-1:], minval=low, maxval=high)
    )


def _drawn(x: jax.Array, noise: Noise, draw: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Draw an array shaped as x by its rows, each from a key of its row and its position."""
    assert noise.positions is not None
    spec, outer = P(*jax.typeof(x).sharding.spec.partitions[:-1]), x.shape[:-1]
    rows = _laid(noise.rows[..., None], outer, spec)
    positions = _laid(noise.positions.reshape(*(1,) * (x.ndim - 2), -1), outer, spec)

    def each(row: jax.Array, position: jax.Array) -> jax.Array:
        return draw(jax.random.fold_in(jax.random.fold_in(noise.key, row), position))

    for _ in outer:
        each = jax.vmap(each)
    return each(rows, positions)


def dropout_heads(x: jax.Array, rate: float, noise: Noise | None) -> jax.Array:
    """Apply dropout to attention weights [B, K, G, T, S], in the order of positions.

    Masks are drawn head by head, on the devices where the heads are.
    """
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
    """Broadcast x to a shape, laid out as `spec` even if it had the shape already.

    A dimension of one is left whole: if the one device of a mesh axis "splits" it, random numbers
    for it lose that axis.
    """
    names = (None if size == 1 else name for size, name in zip(shape, spec, strict=True))
    return jax.reshard(jnp.broadcast_to(x, shape), P(*names))
