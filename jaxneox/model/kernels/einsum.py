"""Attention as its formula: all scores at once.

The other kernels are held against it, and it alone has everything: dropout, learned biases, rows
with positions of their own.
"""
# B batch, T query length, S key length, K key-value heads, G query heads for each of them, H head
# Z rows of positions: 1 where all rows of a batch have the same, else B

import jax
import jax.numpy as jnp

from jaxneox.config.schema import AttentionConfig
from jaxneox.model.dropout import Noise, dropout_heads
from jaxneox.model.layout import Layout
from jaxneox.model.positions import distances


def visible(queries: jax.Array, keys_S: jax.Array, window: int | None) -> jax.Array:
    """Mark which keys each query sees, bool [Z, T, S]: itself and those before it.

    A window limits how many positions back. Queries are at [T] or [B, T].
    """
    distance = distances(queries, keys_S)
    seen = distance >= 0
    return seen if window is None else seen & (distance <= window)


def same(documents_BT: jax.Array, layout: Layout) -> jax.Array:
    """Mark the queries and keys of one document, bool [B, T, S]."""
    keys_BS = jax.reshard(documents_BT, layout.activation("batch", None))
    return documents_BT[:, :, None] == keys_BS[:, None, :]


def attend(
    q_BTKGH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask_ZTS: jax.Array,
    bias: jax.Array | None,
    noise: Noise | None,
    cfg: AttentionConfig,
) -> jax.Array:
    """Compute softmax(q k / sqrt(H) + bias [Z, K, G, T, S]) v, [B, T, K, G, H].

    The softmax itself is in float32 (of float64 in float64); the scores are rounded to the compute
    dtype before it, as in NeoX, unless `softmax_fp32` is set.
    """
    wide = jnp.promote_types(q_BTKGH.dtype, jnp.float32)
    keys = "BSKGH" if k_BSKH.ndim == 5 else "BSKH"
    scores = jnp.einsum(f"BTKGH,{keys}->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=wide) * (
        cfg.score_scale
    )
    if not cfg.softmax_fp32:
        scores = scores.astype(q_BTKGH.dtype).astype(wide)
    if bias is not None:
        scores = scores + bias.astype(wide)
    scores = jnp.where(mask_ZTS[:, None, None], scores, jnp.finfo(wide).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BSKH.dtype)
    weights = dropout_heads(weights, cfg.dropout, noise)
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights, v_BSKH)
