"""Causal attention whose scores are made block by block, and again for the backward pass: what XLA
does best without a kernel of its own.

One row of the batch after the other, and of that a block of queries with the keys that any of them
sees: keys after the block, and before the window, cost nothing, and the scores of one block are all
that is ever held. The backward pass makes them again from the log of the softmax's sum (Dao et al.
2022).
"""
# B batch, T query length, S key length, K key-value heads, G query heads for each of them, H head
# inside a row: t queries of a block, s the keys that they see

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxneox.config.schema import AttentionConfig
from jaxneox.model.layout import Axes, Layout, on_devices, once

BLOCKS = 8
"""At most so many in a row: of all scores seven sixteenths are never made."""

LEAST = 128
"""Queries of a block, unless there are fewer."""

QUERIES: Axes = ("batch", "length", "kv_heads", None, None)
ROWS: Axes = ("batch", "kv_heads", None, "length")


class Places(NamedTuple):
    """Positions of queries [T] and keys [S], alibi's slopes [K, G] (zeros where there are none),
    and where a row holds several documents those of its queries [B, T] and keys [B, S], in one row
    [T] and [S]."""

    queries: jax.Array
    keys: jax.Array
    slopes: jax.Array
    documents: tuple[jax.Array, ...] = ()

    @classmethod
    def of(cls, queries, keys, slopes, *documents: jax.Array) -> "Places":
        return cls(queries, keys, slopes, documents)

    @property
    def arrays(self) -> tuple[jax.Array, ...]:
        return self.queries, self.keys, self.slopes, *self.documents

    @property
    def axes(self) -> tuple[Axes, ...]:
        return (("length",), (None,), ("kv_heads", None), *DOCUMENTS[: len(self.documents)])


DOCUMENTS: tuple[Axes, ...] = (("batch", "length"), ("batch", None))


class How(NamedTuple):
    """What is static. `alibi` is False where all slopes are 0."""

    cfg: AttentionConfig
    layout: Layout
    alibi: bool


def blocked(
    q,
    k,
    v,
    positions_T: jax.Array,
    slopes_KG: np.ndarray | None,
    documents_BT: jax.Array | None,
    cfg: AttentionConfig,
    layout: Layout,
) -> jax.Array:
    """What `einsum.attend` computes without dropout: queries [B, T, K, G, H], keys [B, S, K, (G,)
    H], values [B, S, K, H] -> [B, T, K, G, H]. Positions [T] are those of the whole sequence, in
    its order; S is T.
    """
    slopes = jnp.zeros(q.shape[2:4], jnp.float32) if slopes_KG is None else slopes_KG
    documents = () if documents_BT is None else (documents_BT, documents_BT)
    places = Places(positions_T, positions_T, jnp.asarray(slopes), documents)
    arrays, axes = (q, k, v, *places.arrays), (QUERIES, _keys(k), _keys(v), *places.axes)
    q, k, v, *laid = (
        jax.reshard(x, layout.activation(*names)) for x, names in zip(arrays, axes, strict=True)
    )
    return _blocked(q, k, v, Places.of(*laid), How(cfg, layout, slopes_KG is not None))


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blocked(q, k, v, places: Places, how: How):
    return _forward(q, k, v, places, how)[0]


def _forward(q, k, v, places: Places, how: How):
    axes = (QUERIES, _keys(k), _keys(v), *places.axes)
    run = on_devices(partial(_forward_rows, how), axes, (QUERIES, ROWS), how.layout)
    out, log_total = run(q, k, v, *places.arrays)
    return out, (q, k, v, places, log_total)


def _backward(how: How, saved, d_out):
    q, k, v, places, log_total = saved
    axes = (QUERIES, _keys(k), _keys(v), ROWS, QUERIES, *places.axes)
    outputs = (QUERIES, _keys(k), _keys(v))
    run = on_devices(partial(_backward_rows, how), axes, outputs, how.layout)
    return *run(q, k, v, log_total, d_out, *places.arrays), None


_blocked.defvjp(_forward, _backward)


def _keys(x: jax.Array) -> Axes:
    return ("batch", None, "kv_heads", *(None,) * (x.ndim - 3))


def _forward_rows(how: How, q, k, v, *places: jax.Array):
    """One device's part -> the output [B, T, K, G, H], the log of the softmax's sum [B, K, G, T]"""
    whole = Places.of(*places)

    def row(arrays):
        part = _Part(how, whole._replace(documents=arrays[-1]))
        q, k, v = map(_by_head, arrays[:-1])
        found = [part.forward(q, k, v, block) for block in part.blocks(q.shape[2])]
        out, log_total = (jnp.concatenate(x, axis=2) for x in zip(*found, strict=True))
        return jnp.moveaxis(out, 2, 0).astype(v.dtype), log_total

    return jax.lax.map(row, (q, k, v, whole.documents))


def _backward_rows(how: How, q, k, v, log_total, d_out, *places: jax.Array):
    """-> the gradients of queries, keys and values, in their dtypes."""
    whole = Places.of(*places)

    def row(arrays):
        part = _Part(how, whole._replace(documents=arrays[-1]))
        q, k, v, d_out = map(_by_head, arrays[:4])
        sums = tuple(jnp.zeros(x.shape, jnp.float32) for x in (k, v))
        d_q = []
        for block in part.blocks(q.shape[2]):
            query, grad, total = (block.of(x, 2) for x in (q, d_out, arrays[4]))
            d, *added = part.backward(block, query, grad, total, block.seen(k), block.seen(v))
            d_q.append(d)
            sums = tuple(
                total.at[..., block.start : block.end, :].add(x)
                for total, x in zip(sums, added, strict=True)
            )
        grads = jnp.concatenate(d_q, axis=2), *sums
        return tuple(
            jnp.moveaxis(d, -2, 0).astype(x.dtype) for d, x in zip(grads, (q, k, v), strict=True)
        )

    d_q, *d_kv = jax.lax.map(row, (q, k, v, d_out, log_total, whole.documents))
    (others,) = how.layout.activation("length")  # who has the same keys for other queries
    return d_q, *(jax.lax.psum(d, others) for d in d_kv)


class _Block(NamedTuple):
    """Queries `first` to `last`, of which some see the keys `start` to `end`."""

    first: int
    last: int
    start: int
    end: int

    def of(self, x: jax.Array, axis: int) -> jax.Array:
        return jax.lax.slice_in_dim(x, self.first, self.last, axis=axis)

    def seen(self, x: jax.Array) -> jax.Array:
        """[K, (G,) S, H] -> [K, (G,) s, H]"""
        return x[..., self.start : self.end, :]


class _Part(NamedTuple):
    """What a device computes for one row, [K, G, T, H] with [K, (G,) S, H] and [K, S, H]."""

    how: How
    places: Places

    def blocks(self, length: int) -> Iterator[_Block]:
        keys = self.places.keys.shape[0]
        if keys != length:  # a part of the queries: which keys they see is another on each device
            yield _Block(0, length, 0, keys)
            return
        size = max(-(-length // BLOCKS), min(LEAST, length))
        for first in range(0, length, size):
            last = min(first + size, length)
            window = self.how.cfg.window
            yield _Block(first, last, 0 if window is None else max(0, first - window), last)

    def scores(self, q: jax.Array, k: jax.Array, block: _Block) -> jax.Array:
        """float32 [K, G, t, s], the smallest number where a query does not see a key"""
        cfg = self.how.cfg
        scores = jnp.einsum(f"KGTH,{_named(k)}->KGTS", q, k, preferred_element_type=jnp.float32) * (
            1 / math.sqrt(cfg.head_dim)
        )
        if not cfg.softmax_fp32:
            scores = scores.astype(q.dtype).astype(jnp.float32)
        queries = block.of(self.places.queries, 0)
        distance = queries[:, None] - self.places.keys[None, block.start : block.end]
        if self.how.alibi:
            slopes = self.places.slopes[:, :, None, None]
            scores = scores - slopes * distance[None, None].astype(jnp.float32)
        seen = distance >= 0
        if cfg.window is not None:
            seen &= distance <= cfg.window
        if self.places.documents:
            queries, keys = self.places.documents
            seen &= block.of(queries, 0)[:, None] == keys[None, block.start : block.end]
        return jnp.where(seen[None, None], scores, jnp.finfo(jnp.float32).min)

    def forward(self, q, k, v, block: _Block) -> tuple[jax.Array, jax.Array]:
        """-> float32 [K, G, t, H] and [K, G, t]"""
        k, v = block.seen(k), block.seen(v)
        scores = self.scores(block.of(q, 2), k, block)
        most = jnp.max(scores, axis=-1)
        powers = once(jnp.exp(scores - most[..., None]))
        total = jnp.sum(powers, axis=-1)
        weights = powers.astype(v.dtype)  # divided by their sum only in the product
        out = jnp.einsum("KGTS,KSH->KGTH", weights, v, preferred_element_type=jnp.float32)
        return out / total[..., None], most + jnp.log(total)

    def backward(self, block: _Block, q, d_out, log_total, k, v):
        """-> the gradients of q [K, G, t, H], and this block's share of those of k and v; float32.

        A block has all keys that its queries see, so that the sum over them, which the gradient of
        a softmax takes, is exact here: from a rounded output it would lose digits where attention
        is peaked.
        """
        dot = partial(jnp.einsum, preferred_element_type=jnp.float32)
        weights = jnp.exp(self.scores(q, k, block) - log_total[..., None])
        d_weights = dot("KGTH,KSH->KGTS", d_out, v)
        product = jnp.sum(once(weights * d_weights), axis=-1, keepdims=True)
        d_scores = weights * (d_weights - product) * (1 / math.sqrt(self.how.cfg.head_dim))
        weights, d_scores = once(weights.astype(v.dtype)), once(d_scores.astype(q.dtype))
        d_q = dot(f"KGTS,{_named(k)}->KGTH", d_scores, k)
        d_k = dot(f"KGTS,KGTH->{_named(k)}", d_scores, q)
        return d_q, d_k, dot("KGTS,KGTH->KSH", weights, d_out)


def _named(k: jax.Array) -> str:
    return "KSH" if k.ndim == 3 else "KGSH"


def _by_head(x: jax.Array) -> jax.Array:
    """[T, K, …, H] -> [K, …, T, H], the numbers of a head side by side in memory"""
    return once(jnp.moveaxis(x, 0, -2))
