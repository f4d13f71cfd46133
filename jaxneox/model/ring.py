"""Causal attention over a sequence that several devices hold in parts.

Keys and values go around a ring of devices, and each device adds up what its queries see of them:
the softmax's running maximum and sum are kept beside the output (Milakov and Gimelshein 2018, Liu
et al. 2023). A device holds one early and one late block of the sequence. Of the keys of any other
device it sees exactly two blocks of queries times keys out of four, so that all have the same work,
and half of what attention without the causal mask would take.
"""
# B batch, t length on a device, h = t / 2 length of a block, K key-value heads, G query heads for
# each of them, H head; T and S: the queries and keys of one product

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxneox.config.schema import AttentionConfig
from jaxneox.model.layout import Layout, Ring

Bias = Callable[[jax.Array, jax.Array], jax.Array]


class Part(NamedTuple):
    """What queries [B, K, G, T] have seen so far, float32: `out` [..., H] is still to be divided by
    `total`, both are relative to exp(`peak`)."""

    out: jax.Array
    peak: jax.Array
    total: jax.Array


class Half(NamedTuple):
    """One of a device's two blocks of keys [B, h, K, (G,) H] and values [B, h, K, H]."""

    k: jax.Array
    v: jax.Array
    positions: jax.Array


def ring_attend(q, k, v, slopes_KG: jax.Array | None, cfg: AttentionConfig, layout: Layout):
    """What `attention.attend` computes, queries [B, T, K, G, H] to [B, T, K, G, H], for positions
    in the layout's order. `slopes_KG` are alibi's."""
    ring = layout.rings
    assert ring is not None
    whole = layout.activation("batch", "length", "kv_heads", None, None)
    keys = layout.activation("batch", "length", "kv_heads", *(None,) * (k.ndim - 3))
    values = layout.activation("batch", "length", "kv_heads", None)
    if slopes_KG is None:
        slopes_KG = jnp.zeros(q.shape[2:4], jnp.float32)
    slopes_KG = jax.reshard(slopes_KG, layout.activation("kv_heads", None))

    def local(q, k, v, slopes_KG):
        return _Device(ring, cfg, slopes_KG)(q, k, v)

    specs = (whole, keys, values, layout.activation("kv_heads", None))
    return jax.shard_map(local, in_specs=specs, out_specs=whole)(q, k, v, slopes_KG)


class _Device(NamedTuple):
    """One device's part of the computation."""

    ring: Ring
    cfg: AttentionConfig
    slopes_KG: jax.Array

    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        block = q.shape[1] // 2
        here = jax.lax.axis_index(self.ring.axis)
        q_low, q_high = q[:, :block], q[:, block:]
        low, high = self._halves(k, v, here)
        seen_low = self._see(q_low, low.positions, low)
        seen_high = self._see(q_high, high.positions, low)
        seen_high = _add(seen_high, self._see(q_high, high.positions, high))

        def visit(carry, distance: jax.Array):
            """Keys and values of the device that many places back; one that comes later in the
            sequence is late in its first block, or early in its last."""
            k, v, seen_low, seen_high = carry
            k, v = self._pass_on(k), self._pass_on(v)
            other = (here - distance) % self.ring.count
            before = other < here
            its_low, its_high = self._halves(k, v, other)
            seen_high = _add(seen_high, self._see(q_high, high.positions, its_low))
            queries = jnp.where(before, q_low, q_high)
            positions = jnp.where(before, low.positions, high.positions)
            keys = _choose(before, its_low, its_high)
            added = _add(_choose(before, seen_low, seen_high), self._see(queries, positions, keys))
            seen_low = _choose(before, added, seen_low)
            seen_high = _choose(before, seen_high, added)
            return (k, v, seen_low, seen_high), None

        distances = jnp.arange(1, self.ring.count)
        carry, _ = jax.lax.scan(visit, (k, v, seen_low, seen_high), distances)
        parts = [_finish(part).astype(v.dtype) for part in carry[2:]]
        return jnp.concatenate(parts, axis=1)

    def _halves(self, k: jax.Array, v: jax.Array, device: jax.Array) -> tuple[Half, Half]:
        block = k.shape[1] // 2
        inside = jnp.arange(block, dtype=jnp.int32)
        first, last = device, 2 * self.ring.count - 1 - device
        return (
            Half(k[:, :block], v[:, :block], first * block + inside),
            Half(k[:, block:], v[:, block:], last * block + inside),
        )

    def _pass_on(self, x: jax.Array) -> jax.Array:
        count = self.ring.count
        return jax.lax.ppermute(x, self.ring.axis, [(i, (i + 1) % count) for i in range(count)])

    def _see(self, q_BTKGH: jax.Array, positions_T: jax.Array, keys: Half) -> Part:
        """One block of queries on one of keys; its scores are computed again for the gradient."""
        return jax.checkpoint(self._product)(q_BTKGH, positions_T, keys)

    def _product(self, q_BTKGH: jax.Array, positions_T: jax.Array, keys: Half) -> Part:
        axes = "BSKGH" if keys.k.ndim == 5 else "BSKH"
        scores = jnp.einsum(
            f"BTKGH,{axes}->BKGTS", q_BTKGH, keys.k, preferred_element_type=jnp.float32
        ) * (1 / math.sqrt(self.cfg.head_dim))
        if not self.cfg.softmax_fp32:
            scores = scores.astype(q_BTKGH.dtype).astype(jnp.float32)
        distance_TS = positions_T[:, None] - keys.positions[None, :]
        slopes = self.slopes_KG[None, :, :, None, None]
        scores = scores - slopes * distance_TS.astype(jnp.float32)[None, None, None]
        seen = distance_TS >= 0
        if self.cfg.window is not None:
            seen = seen & (distance_TS <= self.cfg.window)
        scores = jnp.where(seen[None, None, None], scores, jnp.finfo(jnp.float32).min)
        peak = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
        weights = jnp.exp(scores - peak[..., None])
        out = jnp.einsum(
            "BKGTS,BSKH->BKGTH",
            weights.astype(keys.v.dtype),
            keys.v,
            preferred_element_type=jnp.float32,
        )
        return Part(out, peak, jnp.sum(weights, axis=-1))


def _add(a: Part, b: Part) -> Part:
    peak = jnp.maximum(a.peak, b.peak)
    from_a, from_b = jnp.exp(a.peak - peak), jnp.exp(b.peak - peak)
    return Part(
        a.out * from_a[..., None] + b.out * from_b[..., None],
        peak,
        a.total * from_a + b.total * from_b,
    )


def _finish(part: Part) -> jax.Array:
    """-> [B, T, K, G, H]"""
    return jnp.moveaxis(part.out / part.total[..., None], 3, 1)


def _choose(condition: jax.Array, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
