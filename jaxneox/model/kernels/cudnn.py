"""NVIDIA's fused attention, by way of `jax.nn.dot_product_attention`."""
# B batch, T length, K key-value heads, G query heads for each of them, H head

import math
from functools import partial

import jax

from jaxneox.config.schema import AttentionConfig
from jaxneox.model.layout import Axes, Layout

QUERIES: Axes = ("batch", None, "kv_heads", None, None)
KEYS: Axes = ("batch", None, "kv_heads", None)


def lacks(cfg: AttentionConfig) -> str | None:
    """What it has not of what is asked."""
    if cfg.qk_norm and cfg.group > 1:
        return "keys of their own for the queries of a group"
    if cfg.head_dim % 8 or cfg.head_dim > 128:
        return f"heads of {cfg.head_dim} (a multiple of 8 up to 128)"
    return None


def fused(q: jax.Array, k: jax.Array, v: jax.Array, cfg: AttentionConfig, layout: Layout):
    """queries [B, T, K, G, H], keys [B, T, K, (1,) H], values [B, T, K, H] -> as the queries."""
    k = k if k.ndim == 4 else k[:, :, :, 0]
    specs = tuple(layout.activation(*axes) for axes in (QUERIES, KEYS, KEYS))
    laid = map(jax.reshard, (q, k, v), specs)
    # jax does not see into the kernel: it cannot check what devices have in common
    local = partial(_local, cfg)
    run = jax.shard_map(local, in_specs=specs, out_specs=specs[0], check_vma=False)
    out = run(*laid)
    return jax.reshard(out, layout.activation("batch", "length", "kv_heads", None, None))


def _local(cfg: AttentionConfig, q, k, v):
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
