"""Causal attention over a sequence that several devices hold in parts.

Keys and values go around a ring of devices, and each device adds up what its queries see of them:
the softmax's running maximum and sum are kept beside the output (Milakov and Gimelshein 2018, Liu
et al. 2023). Backward they go around once more, together with their gradients, and the scores are
computed again from the sums that were kept (Dao et al. 2022).

A device holds one early and one late block of the sequence. Of the keys of any other device it sees
exactly two of the four products of blocks, so that all have the same work, and half of what
attention without a causal mask would take.
"""
# B batch, t length on a device, K key-value heads, G query heads for each of them, H head
# T and S: the queries and keys of one block, each t / 2 long

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxneox.config.schema import AttentionConfig
from jaxneox.model.layout import Layout, Ring, on_devices
from jaxneox.model.partial_softmax import PartialSoftmax, combined

QUERIES = ("batch", "length", "kv_heads", None, None)
ROWS = ("batch", "kv_heads", None, "length")
SLOPES = ("kv_heads", None)
IDS = ("batch", "length")

Ids = tuple[Array, ...]
"""The documents' numbers [B, t], or nothing if a row is one text."""


Half = dict[str, Any]
"""Arrays of a block of queries or of keys by name, with its `positions` and documents' `ids`."""


class RingSettings(NamedTuple):
    """The settings that are static while the computation is traced."""

    cfg: AttentionConfig
    layout: Layout


def ring_attend(
    q: Array,
    k: Array,
    v: Array,
    slopes_KG: Array | None,
    documents_BT: Array | None,
    cfg: AttentionConfig,
    layout: Layout,
) -> Array:
    """Compute what `kernels.einsum.attend` does, for positions in the layout's order.

    Args:
        q: queries [B, T, K, G, H].
        k: keys [B, T, K, (G,) H].
        v: values [B, T, K, H].
        slopes_KG: alibi's slopes, or None.
        documents_BT: the documents' numbers in the same order, or None.
        cfg: the attention's sizes, window and softmax dtype.
        layout: has the ring.

    Returns:
        [B, T, K, G, H].
    """
    slopes_KG = jnp.zeros(q.shape[2:4], jnp.float32) if slopes_KG is None else slopes_KG
    slopes_KG = jax.reshard(slopes_KG, layout.activation(*SLOPES))
    documents = () if documents_BT is None else (documents_BT,)
    return _ring(q, k, v, slopes_KG, documents, RingSettings(cfg, layout))


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _ring(
    q: Array, k: Array, v: Array, slopes_KG: Array, documents: Ids, settings: RingSettings
) -> Array:
    return _forward(q, k, v, slopes_KG, documents, settings)[0]


def _forward(
    q: Array, k: Array, v: Array, slopes_KG: Array, documents: Ids, settings: RingSettings
) -> tuple[Array, tuple[Any, ...]]:
    axes = (QUERIES, _keys(k), _keys(v), SLOPES, *(IDS for _ in documents))
    run = on_devices(_Device(settings).forward, axes, (QUERIES, ROWS), settings.layout)
    out, log_total = run(q, k, v, slopes_KG, *documents)
    return out.astype(v.dtype), (q, k, v, slopes_KG, out, log_total, documents)


def _backward(settings: RingSettings, saved: Any, d_out: Array) -> tuple[Any, ...]:
    *saved, documents = saved
    _, k, v, slopes_KG, _, _ = saved
    ids = tuple(IDS for _ in documents)
    axes = (QUERIES, _keys(k), _keys(v), SLOPES, QUERIES, ROWS, QUERIES, *ids)
    outputs = (QUERIES, _keys(k), _keys(v))
    run = on_devices(_Device(settings).backward, axes, outputs, settings.layout)
    return *run(*saved, d_out, *documents), jnp.zeros_like(slopes_KG), None


_ring.defvjp(_forward, _backward)


def _keys(x: Array) -> tuple[str | None, ...]:
    return "batch", "length", "kv_heads", *(None,) * (x.ndim - 3)


class _Device(NamedTuple):
    """One device's part of the computation.

    A half is one of its two blocks: a tree of arrays with the block's `positions`.
    """

    settings: RingSettings

    @property
    def ring(self) -> Ring:
        ring = self.settings.layout.rings
        assert ring is not None
        return ring

    def forward(
        self, q: Array, k: Array, v: Array, slopes_KG: Array, *ids: Array
    ) -> tuple[Array, Array]:
        """Compute the output [B, t, K, G, H], and the log of the softmax's sum [B, K, G, t].

        Both are float32: where attention is peaked, the gradient of a score is a small difference
        between the output and one value.
        """
        here = jax.lax.axis_index(self.ring.axis)
        low, high = self._halves(here, q=q, ids=ids)

        def attend(query: Half, key: Half) -> PartialSoftmax:
            return self._attend(query, key, slopes_KG)

        key_low, key_high = self._halves(here, k=k, v=v, ids=ids)
        low_sums = attend(low, key_low)
        high_sums = combined(attend(high, key_low), attend(high, key_high))

        def visit(carry: Any, distance: Array) -> tuple[Any, None]:
            k, v, ids, low_sums, high_sums = carry
            k, v, ids = self._pass_on((k, v, ids))
            other = (here - distance) % self.ring.count
            key_low, key_high = self._halves(other, k=k, v=v, ids=ids)
            high_sums = combined(high_sums, attend(high, key_low))
            before = other < here
            added = attend(_choose(before, low, high), _choose(before, key_low, key_high))
            added = combined(_choose(before, low_sums, high_sums), added)
            low_sums = _choose(before, added, low_sums)
            high_sums = _choose(before, high_sums, added)
            return (k, v, ids, low_sums, high_sums), None

        carry, _ = jax.lax.scan(visit, (k, v, ids, low_sums, high_sums), self._distances())
        parts = carry[-2:]
        out = [jnp.moveaxis(p.out / p.total[..., None], 3, 1) for p in parts]
        log_total = [p.peak + jnp.log(p.total) for p in parts]
        return jnp.concatenate(out, axis=1), jnp.concatenate(log_total, axis=-1)

    def backward(
        self,
        q: Array,
        k: Array,
        v: Array,
        slopes_KG: Array,
        out: Array,
        log_total: Array,
        d_out: Array,
        *ids: Array,
    ) -> tuple[Array, Array, Array]:
        """Compute the gradients of queries, keys and values, in their dtypes."""
        here = jax.lax.axis_index(self.ring.axis)
        product = jnp.sum(d_out.astype(jnp.float32) * out, axis=-1)
        rows = {"log_total": log_total, "product": jnp.moveaxis(product, 1, 3)}
        low, high = self._halves(here, q=q, d_out=d_out, ids=ids, **rows)

        def gradients(query: Half, key: Half) -> tuple[Array, tuple[Array, Array]]:
            return self._gradients(query, key, slopes_KG)

        key_low, key_high = self._halves(here, k=k, v=v, ids=ids)
        d_low, kv_low = gradients(low, key_low)
        d_high, more = gradients(high, key_low)
        d_more, kv_high = gradients(high, key_high)
        kv = _join(_sum(kv_low, more), kv_high)

        def visit(carry: Any, distance: Array) -> tuple[Any, None]:
            k, v, ids, kv, d_low, d_high = carry
            k, v, ids, kv = self._pass_on((k, v, ids, kv))
            other = (here - distance) % self.ring.count
            key_low, key_high = self._halves(other, k=k, v=v, ids=ids)
            d, kv_low = gradients(high, key_low)
            d_high = d_high + d
            before = other < here
            d, kv_chosen = gradients(_choose(before, low, high), _choose(before, key_low, key_high))
            d_low = d_low + jnp.where(before, d, 0)
            d_high = d_high + jnp.where(before, 0, d)
            nothing = jax.tree.map(jnp.zeros_like, kv_chosen)
            kv_low = _sum(kv_low, _choose(before, kv_chosen, nothing))
            kv = _sum(kv, _join(kv_low, _choose(before, nothing, kv_chosen)))
            return (k, v, ids, kv, d_low, d_high), None

        start = (k, v, ids, kv, d_low, d_high + d_more)
        (_, _, _, kv, d_low, d_high), _ = jax.lax.scan(visit, start, self._distances())
        d_k, d_v = self._pass_on(kv)  # home again
        d_q = jnp.concatenate([d_low, d_high], axis=1)
        return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype)

    def _distances(self) -> Array:
        """List how many places back in the ring the device is whose keys and values have arrived.

        A device that is earlier in the sequence is seen in its early block alone, by both blocks of
        queries; of a later one both blocks are seen, by the late block of queries alone.
        """
        return jnp.arange(1, self.ring.count)

    def _halves(self, device: Array, *, ids: Ids, **arrays: Array) -> tuple[Any, Any]:
        """Split a device's arrays into its early and its late block, with their positions."""
        length = {"log_total": -1, "product": -1}
        split = {n: jnp.split(x, 2, axis=length.get(n, 1)) for n, x in arrays.items()}
        parted = [jnp.split(x, 2, axis=1) for x in ids]
        block = next(iter(split.values()))[0].shape[length.get(next(iter(split)), 1)]
        inside = jnp.arange(block, dtype=jnp.int32)
        blocks = (device, 2 * self.ring.count - 1 - device)
        low, high = (
            {n: parts[i] for n, parts in split.items()}
            | {"positions": b * block + inside, "ids": tuple(parts[i] for parts in parted)}
            for i, b in enumerate(blocks)
        )
        return low, high

    def _pass_on(self, tree: Any) -> Any:
        count = self.ring.count
        around = [(i, (i + 1) % count) for i in range(count)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, self.ring.axis, around), tree)

    def _scores(self, query: Half, key: Half, slopes_KG: Array) -> Array:
        """Compute scores, float32 [B, K, G, T, S].

        They are the least number where a query does not see a key.
        """
        cfg, q = self.settings.cfg, query["q"]
        each, wide = f"BTKGH,{_named(key['k'])}->BKGTS", jnp.float32
        scores = jnp.einsum(each, q, key["k"], preferred_element_type=wide) * cfg.score_scale
        if not cfg.softmax_fp32:
            scores = scores.astype(q.dtype).astype(jnp.float32)
        distance_TS = query["positions"][:, None] - key["positions"][None, :]
        slopes = slopes_KG[None, :, :, None, None]
        scores = scores - slopes * distance_TS.astype(jnp.float32)[None, None, None]
        seen = distance_TS >= 0
        if cfg.window is not None:
            seen = seen & (distance_TS <= cfg.window)
        seen = seen[None, None, None]
        for queries, keys in zip(query["ids"], key["ids"], strict=True):
            seen = seen & (queries[:, :, None] == keys[:, None, :])[:, None, None]
        return jnp.where(seen, scores, jnp.finfo(jnp.float32).min)

    def _attend(self, query: Half, key: Half, slopes_KG: Array) -> PartialSoftmax:
        """Compute the sums of one block of queries over one block of keys."""
        scores = self._scores(query, key, slopes_KG)
        peak = jnp.max(scores, axis=-1)
        weights, v = jnp.exp(scores - peak[..., None]), key["v"]
        out = _product("BKGTS,BSKH->BKGTH", weights.astype(v.dtype), v)
        return PartialSoftmax(out, peak, jnp.sum(weights, axis=-1))

    def _gradients(
        self, query: Half, key: Half, slopes_KG: Array
    ) -> tuple[Array, tuple[Array, Array]]:
        """Compute the same product's share of the gradients of queries, and of keys and values."""
        q, k, v, d_out = query["q"], key["k"], key["v"], query["d_out"]
        weights = jnp.exp(self._scores(query, key, slopes_KG) - query["log_total"][..., None])
        d_weights = _product("BTKGH,BSKH->BKGTS", d_out, v)
        d_scores = weights * (d_weights - query["product"][..., None])
        d_scores = (d_scores * self.settings.cfg.score_scale).astype(q.dtype)
        d_q = _product(f"BKGTS,{_named(k)}->BTKGH", d_scores, k)
        d_k = _product(f"BKGTS,BTKGH->{_named(k)}", d_scores, q)
        d_v = _product("BKGTS,BTKGH->BSKH", weights.astype(v.dtype), d_out)
        return d_q, (d_k, d_v)


def _product(axes: str, a: Array, b: Array) -> Array:
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)


def _named(k: Array) -> str:
    """Name the axes of keys: with a norm every query head has its own."""
    return "BSKGH" if k.ndim == 5 else "BSKH"


def _sum(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _join(low: Any, high: Any) -> Any:
    """Join two blocks of keys' and values' gradients into one."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), low, high)


def _choose(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
