"""The TPU's fused attention: JAX's Pallas kernel of that name."""
# B batch, T length, K key-value heads, G query heads for each of them, H head

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxneox.config.schema import AttentionConfig
from jaxneox.model.kernels.opaque import on_whole_rows
from jaxneox.model.layout import Layout, platform

BLOCK = 512
"""Queries and keys of a tile."""

LANES = 128
"""Width of a TPU vector register. A tile spans a whole number of lanes."""


def unsupported(cfg: AttentionConfig, length: int) -> str | None:
    """Name the first requested feature that this kernel cannot compute, or return None."""
    if cfg.head_dim % 32:
        return f"heads of {cfg.head_dim} (a multiple of 32)"
    if length % LANES:
        return f"sequences of {length} (a multiple of {LANES})"
    return None


def fused(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    documents_BT: jax.Array | None,
    cfg: AttentionConfig,
    layout: Layout,
) -> jax.Array:
    """Mix queries [B, T, K, G, H], keys [B, T, K, (1,) H] and values [B, T, K, H] like `mix`.

    On a CPU it is interpreted, slowly, for tests.
    """
    local = partial(_local, cfg, platform() != "tpu")
    return on_whole_rows(local, q, k, v, documents_BT, layout)


def _local(
    cfg: AttentionConfig,
    interpreted: bool,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *documents: jax.Array,
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, group = q.shape[1], q.shape[3]
    seen = (
        masks.CausalMask((length, length))
        if cfg.window is None
        else masks.LocalMask((length, length), (cfg.window, 0), 0)
    )
    size = math.gcd(length, BLOCK)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes: dict[str, Any] = {f"block_{name}": size for name in names}
    run = kernel.make_splash_mqa_single_device(
        masks.MultiHeadMask([seen] * group),
        block_sizes=kernel.BlockSizes(**sizes),
        interpret=interpreted,
    )
    q = q * cfg.score_scale  # the kernel does not scale

    def row(q: jax.Array, k: jax.Array, v: jax.Array, *documents: jax.Array) -> jax.Array:
        segments = kernel.SegmentIds(*documents, *documents) if documents else None
        each = jax.vmap(run, in_axes=(0, 0, 0, None))  # [G, T, H] with [T, H] of a key-value head
        return each(q, k, v, segments)

    out = jax.vmap(row)(*(jnp.moveaxis(x, 1, -2) for x in (q, k, v)), *documents)
    return jnp.moveaxis(out, -2, 1)
