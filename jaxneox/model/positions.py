"""Where a token stands: rotations of queries and keys, biases of scores, tables for embeddings.

Every function takes the positions themselves, so that it is right on any part of a sequence.
"""
# B batch, T query length, S key length, K key-value heads, G query heads for each, H head
# Z rows of positions: 1 where all rows of a batch have the same, else B

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxneox.config.schema import AttentionConfig, PositionConfig
from jaxneox.model.rope_scaling import periods, scaled, stretched, stretched_base


def frequencies(width: int, base: float) -> np.ndarray:
    """`base ** (-2i / width)`, float32 [width / 2]."""
    return np.float32(1) / periods(width, base)


def rows(positions: jax.Array) -> jax.Array:
    """Return positions [T] of all rows alike, or [B, T] of each row, as [Z, T]."""
    return positions if positions.ndim == 2 else positions[None]


def distances(queries: jax.Array, keys_S: jax.Array) -> jax.Array:
    """Return how far before each query, at [T] or [B, T], each key is: int [Z, T, S]."""
    return rows(queries)[:, :, None] - keys_S[None, None, :]


class Rotary:
    """Rotates the first `fraction` of each head by an angle that grows with the position.

    Dimension i is paired with i + width / 2 (Su et al. 2021 in NeoX's order of dimensions).
    """

    def __init__(self, cfg: PositionConfig, head_dim: int):
        self.width = int(head_dim * cfg.rotary_fraction)
        self.base, self.scaling = cfg.rotary_base, cfg.scaling
        self.frequencies = scaled(self.width, self.base, self.scaling)

    def __call__(
        self, x: jax.Array, positions: jax.Array, lengths_B: jax.Array | None = None
    ) -> jax.Array:
        """Rotate x [B, T, K, (G,) H] by positions [T] or [B, T], in x's dtype.

        `lengths_B` are those of the texts in the rows, if they are not all T long.
        """
        each = self._frequencies(positions.shape[-1], lengths_B)
        angle = rows(positions).astype(jnp.float32)[..., None] * each
        angle = jnp.expand_dims(angle, tuple(range(2, x.ndim - 1)))
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        if self.scaling.attention_factor != 1.0:
            cos, sin = (part * self.scaling.attention_factor for part in (cos, sin))
        first, second, rest = jnp.split(x, [self.width // 2, self.width], axis=-1)
        a, b = first.astype(jnp.float32), second.astype(jnp.float32)
        turned = [(a * cos - b * sin).astype(x.dtype), (b * cos + a * sin).astype(x.dtype)]
        return jnp.concatenate([*turned, rest], axis=-1)

    def _frequencies(self, length: int, lengths_B: jax.Array | None) -> np.ndarray | jax.Array:
        """Return the frequencies [1, 1, P], or [B, 1, P] if each row has its own."""
        if self.scaling.grows and lengths_B is not None:
            return stretched(self.frequencies, lengths_B, self.scaling)[:, None]
        return self.of_length(length)[None, None]

    def of_length(self, length: int) -> np.ndarray:
        """Return the frequencies of texts of this length, float32 [P]."""
        if not self.scaling.grows:
            return self.frequencies
        return frequencies(self.width, stretched_base(self.base, self.width, length, self.scaling))


def sinusoids(positions: jax.Array, width: int) -> jax.Array:
    """Make [*, T, width]: the sines of all frequencies, then the cosines (NeoX's order)."""
    each = np.expand_dims(frequencies(width, 10000.0), tuple(range(positions.ndim)))
    angle = positions.astype(jnp.float32)[..., None] * each
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def alibi_slopes(heads: int) -> list[float]:
    """List the slopes of Press et al.

    2022: a geometric series for a power of two, else interleaved.
    """
    power = 2 ** math.floor(math.log2(heads))
    start = 2.0 ** (-8.0 / power)
    slopes = [start ** (i + 1) for i in range(power)]
    if power == heads:
        return slopes
    return slopes + alibi_slopes(2 * power)[0::2][: heads - power]


class Alibi:
    """Adds `-slope * distance` to the scores of each head; has no parameters."""

    def __init__(self, cfg: AttentionConfig):
        slopes = np.asarray(alibi_slopes(cfg.num_heads), np.float32)
        self.slopes_KG = slopes.reshape(cfg.kv_heads, cfg.group)

    def __call__(self, queries: jax.Array, keys_S: jax.Array) -> jax.Array:
        """Compute what is added for queries at [T] or [B, T]: float32 [Z, K, G, T, S]."""
        distance_ZTS = distances(queries, keys_S).astype(jnp.float32)
        slopes = jnp.asarray(self.slopes_KG)[None, :, :, None, None]
        return -(slopes * distance_ZTS[:, None, None])


class RelativeBias:
    """T5's learned bias of each head by bucketed distance, one table for all layers (`rpe`)."""

    def __init__(self, positions: PositionConfig, head_dim: int):
        self.buckets, self.max_distance = positions.rpe_buckets, positions.rpe_max_distance
        self.factor = math.sqrt(head_dim)

    def bucket(self, distance: jax.Array) -> jax.Array:
        """Return a bucket for each distance.

        Buckets are exact below buckets / 2, then logarithmic up to max_distance (Raffel et al.
        2020).
        """
        exact = self.buckets // 2
        distance = jnp.maximum(distance, 0)
        log = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
        far = exact + (log / math.log(self.max_distance / exact) * (self.buckets - exact)).astype(
            jnp.int32
        )
        return jnp.where(distance < exact, distance, jnp.minimum(far, self.buckets - 1))

    def __call__(self, table: jax.Array, queries: jax.Array, keys_S: jax.Array) -> jax.Array:
        """Look up biases in table [buckets, K, G] for queries at [T] or [B, T]: [Z, K, G, T, S]."""
        bucket_ZTS = self.bucket(distances(queries, keys_S))
        one_hot = jax.nn.one_hot(bucket_ZTS, self.buckets, dtype=table.dtype)
        return self.factor * jnp.einsum("ZTSb,bKG->ZKGTS", one_hot, table)
