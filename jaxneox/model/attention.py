"""Causal self-attention with grouped heads, split over devices by key-value head."""
# B batch, T query length, S key length, D hidden, H head
# K key-value heads, G query heads for each of them, R = G + 2: a group's queries, key and value
# Z rows of positions: 1 where all rows of a batch have the same, else B

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxneox.config.schema import AttentionConfig, ModelConfig
from jaxneox.model.dropout import Noise, dropout_heads
from jaxneox.model.layout import Axes, Layout, on_devices
from jaxneox.model.norms import norm
from jaxneox.model.param import initializer, param, zeros
from jaxneox.model.positions import Alibi, Rotary, distances
from jaxneox.model.ring import ring_attend

BLOCKS = 8
"""Of queries, in `attend_by_rows`: seven sixteenths of all scores are never made."""


class Attention(nnx.Module):
    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        a = cfg.attention
        init, init_out = initializer(cfg.init.method, cfg), initializer(cfg.init.output_method, cfg)
        sizes = {"K": a.kv_heads, "R": a.group + 2, "H": a.head_dim}
        axes, D = ("kv_heads", "group", "head"), cfg.hidden_size
        self.qkv = param(rngs, ("embed", *axes), init, D=D, **sizes)
        self.qkv_bias = param(rngs, axes, zeros, **sizes) if a.bias else None
        sizes["R"] = a.group
        self.out = param(rngs, (*axes, "embed"), init_out, reads=3, **sizes, D=D)
        self.out_bias = param(rngs, ("embed",), zeros, D=D) if a.bias else None
        self.qk_norm = norm(cfg.norm, axes, rngs, **sizes) if a.qk_norm else None
        self.cfg = a
        rotary = cfg.positions.kind == "rotary"
        self.rotary = Rotary(cfg.positions, a.head_dim) if rotary else None
        self.alibi = Alibi(a) if cfg.positions.kind == "alibi" else None
        self.rotated = self.rotary.width if self.rotary else 0

    def __call__(
        self,
        x_BTD: jax.Array,
        positions_T: jax.Array,
        score_bias: jax.Array | None,
        noise: Noise | None,
        layout: Layout,
    ) -> jax.Array:
        """-> [B, T, D] without the output bias, a partial sum over the devices' heads.

        `score_bias` [1, K, G, T, S] is what all layers add to their scores (rpe), if anything.
        """
        q, k, v = self.project(x_BTD)
        if self.rotary is not None:
            q, k = self.rotary(q, positions_T), self.rotary(k, positions_T)
        if layout.rings is not None:
            slopes = None if self.alibi is None else jnp.asarray(self.alibi.slopes_KG)
            mixed = ring_attend(q, k, v, slopes, self.cfg, layout)
        else:
            if self.alibi is not None:
                score_bias = self.alibi(positions_T, positions_T)
            mask = visible(positions_T, positions_T, self.cfg.window)
            k, v = whole(k, layout), whole(v, layout)
            mixed = self.mix(q, k, v, mask, score_bias, noise, layout)
        return self.output(mixed, layout)

    def mix(self, q, k, v, mask, bias, noise: Noise | None, layout: Layout) -> jax.Array:
        """`attend`, as this configuration computes it."""
        if self.cfg.kernel == "rows" and noise is None:
            return attend_by_rows(q, k, v, mask, bias, self.cfg, layout)
        return attend(q, k, v, mask, bias, noise, self.cfg)

    def output(self, mixed_BTKGH: jax.Array, layout: Layout) -> jax.Array:
        """-> [B, T, D] without the bias, a partial sum over the devices' heads."""
        partial = layout.partial("batch", "length", "embed", over="kv_heads")
        # K, G and H as X, Y and Z: einsum sums over letters in their order, and in another one than
        # that of memory the weights would be copied first
        return jnp.einsum("BTXYZ,XYZD->BTD", mixed_BTKGH, self.out[...], out_sharding=partial)

    def project(self, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """-> queries [B, T, K, G, H], keys [B, T, K, H], values [B, T, K, H].

        With qk_norm every query head has a normalised key of its own: keys [B, T, K, G, H].
        """
        qkv = jnp.einsum("BTD,DKRH->BTKRH", x_BTD, self.qkv[...])
        if self.qkv_bias is not None:
            bias = self.qkv_bias[...] * felt(self.cfg, self.rotated).astype(qkv.dtype)[None]
            qkv = qkv + bias[None, None]
        q, k, v = qkv[..., :-2, :], qkv[..., -2, :], qkv[..., -1, :]
        if self.qk_norm is None:
            return q, k, v
        k = jnp.broadcast_to(k[:, :, :, None], q.shape)
        return self.qk_norm(q), self.qk_norm(k), v


def whole(x: jax.Array, layout: Layout) -> jax.Array:
    """Keys or values [B, S, K, (G,) H] of all of a sequence, on every device with some of it."""
    return jax.reshard(x, layout.activation("batch", None, "kv_heads", *(None,) * (x.ndim - 3)))


def felt(cfg: AttentionConfig, rotated: int) -> np.ndarray:
    """1 for the biases that the output depends on, 0 for those it cannot: float32 [R, H].

    What a key's bias adds to a query's scores is the same for all keys, where it is not turned by
    its position, and the softmax takes it out again. Left in, its gradient would be rounding error
    alone, which Adam makes as large as any other: a random walk, another one on every mesh.
    """
    mask = np.ones((cfg.group + 2, cfg.head_dim), np.float32)
    if not cfg.qk_norm:
        mask[-2, rotated:] = 0
    return mask


def visible(queries: jax.Array, keys_S: jax.Array, window: int | None) -> jax.Array:
    """bool [Z, T, S]: a query, at [T] or [B, T], sees itself and what is before it, at most
    `window` positions back."""
    distance = distances(queries, keys_S)
    seen = distance >= 0
    return seen if window is None else seen & (distance <= window)


def attend(
    q_BTKGH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask_ZTS: jax.Array,
    bias: jax.Array | None,
    noise: Noise | None,
    cfg: AttentionConfig,
) -> jax.Array:
    """softmax(q k / sqrt(H) + bias [Z, K, G, T, S]) v -> [B, T, K, G, H].

    The softmax itself is in float32; the scores are rounded to the compute dtype before it, as in
    NeoX, unless `softmax_fp32` is set.
    """
    keys = "BSKGH" if k_BSKH.ndim == 5 else "BSKH"
    scores = jnp.einsum(
        f"BTKGH,{keys}->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32
    ) * (1 / math.sqrt(cfg.head_dim))
    if not cfg.softmax_fp32:
        scores = scores.astype(q_BTKGH.dtype).astype(jnp.float32)
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    scores = jnp.where(mask_ZTS[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BSKH.dtype)
    weights = dropout_heads(weights, cfg.dropout, noise)
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights, v_BSKH)


def attend_by_rows(q, k, v, mask_ZTS, bias, cfg: AttentionConfig, layout: Layout) -> jax.Array:
    """`attend` without dropout, for what need not be differentiated: one row of the batch after the
    other, so that its scores stay in a CPU's cache, and keys that no query of a block sees are left
    out. Z is 1."""
    blocks = BLOCKS if layout.parts("length") == 1 else 1  # else queries are not where keys are

    def local(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, *bias: jax.Array):
        size = -(-q.shape[1] // blocks)

        def row(arrays: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            q, k, v = (_by_head(x[None]) for x in arrays)
            found = []
            for first in range(0, q.shape[1], size):
                last = min(first + size, q.shape[1]) if blocks > 1 else k.shape[1]
                some = [x[..., first : first + size, :last] for x in (mask, *bias)]
                shared = some[1] if bias else None
                rows = q[:, first : first + size], k[:, :last], v[:, :last]
                found.append(attend(*rows, some[0], shared, None, cfg)[0])
            return jnp.concatenate(found)

        return (jax.lax.map(row, (q, k, v)),)

    keys: Axes = ("batch", None, "kv_heads", *(None,) * (k.ndim - 3))
    values: Axes = ("batch", None, "kv_heads", None)
    queries: Axes = ("batch", "length", "kv_heads", None, None)
    inputs: tuple[Axes, ...] = (queries, keys, values, (None, "length", None))
    arrays = [q, k, v, mask_ZTS]
    if bias is not None:
        inputs += ((None, "kv_heads", None, "length", None),)
        arrays.append(bias)
    laid = [
        jax.reshard(x, layout.activation(*axes)) for x, axes in zip(arrays, inputs, strict=True)
    ]
    return on_devices(local, inputs, (queries,), layout)(*laid)[0]


def _by_head(x: jax.Array) -> jax.Array:
    """[B, T, K, …] as it is, but with the numbers of a head side by side in memory."""
    return jnp.moveaxis(jax.lax.optimization_barrier(jnp.moveaxis(x, 1, -2)), -2, 1)
