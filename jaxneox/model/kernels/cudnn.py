"""NVIDIA's fused attention, by way of `jax.nn.dot_product_attention`."""
# B batch, T length, K key-value heads, G query heads for each of them, H head

import math
from functools import partial

import jax

from jaxneox.config.schema import AttentionConfig
from jaxneox.model.kernels.opaque import on_whole_rows
from jaxneox.model.layout import Layout


def unsupported(cfg: AttentionConfig) -> str | None:
    """Name the first requested feature that this kernel cannot compute, or return None."""
    if cfg.head_dim % 8 or cfg.head_dim > 128:
        return f"heads of {cfg.head_dim} (a multiple of 8 up to 128)"
    return None


def fused(
    q: jax.Array, k: jax.Array, v: jax.Array, cfg: AttentionConfig, layout: Layout
) -> jax.Array:
    """Mix queries [B, T, K, G, H], keys [B, T, K, (1,) H] and values [B, T, K, H] like `mix`."""
    return on_whole_rows(partial(_local, cfg), q, k, v, None, layout)


def _local(cfg: AttentionConfig, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    batch, length, heads, group, width = q.shape
    out = jax.nn.dot_product_attention(
        q.reshape(batch, length, heads * group, width),
        k,
        v,
        scale=1 / math.sqrt(cfg.head_dim),
        is_causal=True,
        local_window_size=None if cfg.window is None else (cfg.window, 0),
        implementation="cudnn",
    )
    return out.reshape(q.shape)
