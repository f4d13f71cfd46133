"""A softmax over keys that arrive in parts (Milakov and Gimelshein 2018)."""
# B batch, T query length, K key-value heads, G query heads for each of them, H head

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class PartialSoftmax(NamedTuple):
    """The sums of queries [B, K, G, T] over the keys seen so far, float32.

    `out` [..., H] is still to be divided by `total`; both are divided by exp(`peak`).
    """

    out: Array
    peak: Array
    total: Array


def combined(a: PartialSoftmax, b: PartialSoftmax) -> PartialSoftmax:
    """Combine the sums over two parts of the keys."""
    peak = jnp.maximum(a.peak, b.peak)
    from_a, from_b = jnp.exp(a.peak - peak), jnp.exp(b.peak - peak)
    return PartialSoftmax(
        a.out * from_a[..., None] + b.out * from_b[..., None],
        peak,
        a.total * from_a + b.total * from_b,
    )
