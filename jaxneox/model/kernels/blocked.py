"""Causal attention whose scores are made block by block, and again for the backward pass.

It is the fastest form in plain XLA, without a kernel of its own. It takes one row of the batch
after the other, and of that a block of queries with the keys that any of them sees: keys after the
block, and before the window, cost nothing, and only one block's scores are ever held. The backward
pass makes them again from the log of the softmax's sum (Dao et al. 2022).
"""
# B batch, T query length, S key length, K key-value heads, G query heads for each of them, H head
# inside a row: t queries of a block, s the keys that they see

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxneox.config.schema import AttentionConfig
from jaxneox.model.layout import Axes, Layout, on_devices, once

MAX_BLOCKS = 8
"""Blocks of a row, at most: seven sixteenths of all scores are then never made."""

MIN_QUERIES = 128
"""Queries of a block, at least, unless a row has fewer."""

QUERIES: Axes = ("batch", "length", "kv_heads", None, None)
ROWS: Axes = ("batch", "kv_heads", None, "length")


class MaskInputs(NamedTuple):
    """The inputs beside queries and keys that decide which scores count and what is added to them.

    Attributes:
        queries: positions of the queries [T].
        keys: positions of the keys [S].
        slopes: alibi's slopes [K, G], zeros without alibi.
        documents: the documents' numbers of the queries [B, T] and keys [B, S] (in one row [T] and
            [S]), or nothing if a row is one text.
    """

    queries: jax.Array
    keys: jax.Array
    slopes: jax.Array
    documents: tuple[jax.Array, ...] = ()

    @classmethod
    def of(
        cls, queries: jax.Array, keys: jax.Array, slopes: jax.Array, *documents: jax.Array
    ) -> "MaskInputs":
        return cls(queries, keys, slopes, documents)

    @property
    def arrays(self) -> tuple[jax.Array, ...]:
        return self.queries, self.keys, self.slopes, *self.documents

    @property
    def axes(self) -> tuple[Axes, ...]:
        return (("length",), (None,), ("kv_heads", None), *DOCUMENTS[: len(self.documents)])


DOCUMENTS: tuple[Axes, ...] = (("batch", "length"), ("batch", None))


class BlockedSettings(NamedTuple):
    """The settings that are static while tracing. `alibi` is False if all slopes are 0."""

    cfg: AttentionConfig
    layout: Layout
    alibi: bool


def blocked(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions_T: jax.Array,
    slopes_KG: np.ndarray | None,
    documents_BT: jax.Array | None,
    cfg: AttentionConfig,
    layout: Layout,
) -> jax.Array:
    """Compute what `einsum.attend` does without dropout.

    Args:
        q: queries [B, T, K, G, H].
        k: keys [B, S, K, (G,) H]; S is T.
        v: values [B, S, K, H].
        positions_T: positions of the whole sequence, in its order.
        slopes_KG: alibi's slopes, or None.
        documents_BT: the documents' numbers, or None.
        cfg: the attention's sizes, window and softmax dtype.
        layout: how arrays lie on the devices.

    Returns:
        [B, T, K, G, H].
    """
    slopes = jnp.zeros(q.shape[2:4], jnp.float32) if slopes_KG is None else slopes_KG
    documents = () if documents_BT is None else (documents_BT, documents_BT)
    mask = MaskInputs(positions_T, positions_T, jnp.asarray(slopes), documents)
    arrays, axes = (q, k, v, *mask.arrays), (QUERIES, _keys(k), _keys(v), *mask.axes)
    q, k, v, *laid = (
        jax.reshard(x, layout.activation(*names)) for x, names in zip(arrays, axes, strict=True)
    )
    return _blocked(
        q, k, v, MaskInputs.of(*laid), BlockedSettings(cfg, layout, slopes_KG is not None)
    )


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blocked(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskInputs, settings: BlockedSettings
) -> jax.Array:
    return _forward(q, k, v, mask, settings)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskInputs, settings: BlockedSettings
) -> tuple[jax.Array, tuple[Any, ...]]:
    axes = (QUERIES, _keys(k), _keys(v), *mask.axes)
    run = on_devices(partial(_forward_rows, settings), axes, (QUERIES, ROWS), settings.layout)
    out, log_total = run(q, k, v, *mask.arrays)
    return out, (q, k, v, mask, log_total)


def _backward(settings: BlockedSettings, saved: Any, d_out: jax.Array) -> tuple[Any, ...]:
    q, k, v, mask, log_total = saved
    axes = (QUERIES, _keys(k), _keys(v), ROWS, QUERIES, *mask.axes)
    outputs = (QUERIES, _keys(k), _keys(v))
    run = on_devices(partial(_backward_rows, settings), axes, outputs, settings.layout)
    return *run(q, k, v, log_total, d_out, *mask.arrays), None


_blocked.defvjp(_forward, _backward)


def _keys(x: jax.Array) -> Axes:
    return ("batch", None, "kv_heads", *(None,) * (x.ndim - 3))


def _forward_rows(
    settings: BlockedSettings, q: jax.Array, k: jax.Array, v: jax.Array, *mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Compute one device's output [B, T, K, G, H] and the log of the softmax's sum [B, K, G, T]."""
    whole = MaskInputs.of(*mask)

    def row(arrays: Any) -> tuple[jax.Array, ...]:
        its_row = _Row(settings, whole._replace(documents=arrays[-1]))
        q, k, v = map(_by_head, arrays[:-1])
        sums = [its_row.forward(q, k, v, block) for block in its_row.blocks(q.shape[2])]
        out, log_total = (jnp.concatenate(x, axis=2) for x in zip(*sums, strict=True))
        return jnp.moveaxis(out, 2, 0).astype(v.dtype), log_total

    return jax.lax.map(row, (q, k, v, whole.documents))


def _backward_rows(
    settings: BlockedSettings,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_total: jax.Array,
    d_out: jax.Array,
    *mask: jax.Array,
) -> tuple[jax.Array, ...]:
    """Compute one device's gradients of queries, keys and values, in their dtypes."""
    whole = MaskInputs.of(*mask)

    def row(arrays: Any) -> tuple[jax.Array, ...]:
        its_row = _Row(settings, whole._replace(documents=arrays[-1]))
        q, k, v, d_out = map(_by_head, arrays[:4])
        sums = tuple(jnp.zeros(x.shape, jnp.float32) for x in (k, v))
        d_q = []
        for block in its_row.blocks(q.shape[2]):
            query, grad, total = (block.of(x, 2) for x in (q, d_out, arrays[4]))
            d, *added = its_row.backward(block, query, grad, total, block.seen(k), block.seen(v))
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
    (others,) = settings.layout.activation("length")  # who has the same keys for other queries
    return d_q, *(jax.lax.psum(d, others) for d in d_kv)


class _Block(NamedTuple):
    """Queries `first` to `last`, and the keys `start` to `end` that some of them see."""

    first: int
    last: int
    start: int
    end: int

    def of(self, x: jax.Array, axis: int) -> jax.Array:
        return jax.lax.slice_in_dim(x, self.first, self.last, axis=axis)

    def seen(self, x: jax.Array) -> jax.Array:
        """Slice the keys [K, (G,) S, H] that the block sees: [K, (G,) s, H]."""
        return x[..., self.start : self.end, :]


class _Row(NamedTuple):
    """Computes one row on a device: q [K, G, T, H], k [K, (G,) S, H] and v [K, S, H]."""

    settings: BlockedSettings
    mask: MaskInputs

    def blocks(self, length: int) -> Iterator[_Block]:
        keys = self.mask.keys.shape[0]
        if keys != length:  # a part of the queries: each device sees other keys
            yield _Block(0, length, 0, keys)
            return
        size = max(-(-length // MAX_BLOCKS), min(MIN_QUERIES, length))
        for first in range(0, length, size):
            last = min(first + size, length)
            window = self.settings.cfg.window
            yield _Block(first, last, 0 if window is None else max(0, first - window), last)

    def scores(self, q: jax.Array, k: jax.Array, block: _Block) -> jax.Array:
        """Compute scores, float32 [K, G, t, s].

        They are the least number where a query does not see a key.
        """
        cfg = self.settings.cfg
        scores = jnp.einsum(f"KGTH,{_named(k)}->KGTS", q, k, preferred_element_type=jnp.float32) * (
            cfg.score_scale
        )
        if not cfg.softmax_fp32:
            scores = scores.astype(q.dtype).astype(jnp.float32)
        queries = block.of(self.mask.queries, 0)
        distance = queries[:, None] - self.mask.keys[None, block.start : block.end]
        if self.settings.alibi:
            slopes = self.mask.slopes[:, :, None, None]
            scores = scores - slopes * distance[None, None].astype(jnp.float32)
        seen = distance >= 0
        if cfg.window is not None:
            seen &= distance <= cfg.window
        if self.mask.documents:
            queries, keys = self.mask.documents
            seen &= block.of(queries, 0)[:, None] == keys[None, block.start : block.end]
        return jnp.where(seen[None, None], scores, jnp.finfo(jnp.float32).min)

    def forward(
        self, q: jax.Array, k: jax.Array, v: jax.Array, block: _Block
    ) -> tuple[jax.Array, jax.Array]:
        """Compute a block's output [K, G, t, H] and log of the softmax's sum [K, G, t]; float32."""
        k, v = block.seen(k), block.seen(v)
        scores = self.scores(block.of(q, 2), k, block)
        most = jnp.max(scores, axis=-1)
        powers = once(jnp.exp(scores - most[..., None]))
        total = jnp.sum(powers, axis=-1)
        weights = powers.astype(v.dtype)  # divided by their sum only in the product
        out = jnp.einsum("KGTS,KSH->KGTH", weights, v, preferred_element_type=jnp.float32)
        return out / total[..., None], most + jnp.log(total)

    def backward(
        self,
        block: _Block,
        q: jax.Array,
        d_out: jax.Array,
        log_total: jax.Array,
        k: jax.Array,
        v: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Compute a block's gradient of q [K, G, t, H] and its share of those of k and v; float32.

        A block has all keys that its queries see, so that the sum over them, which the gradient of
        a softmax takes, is exact here: from a rounded output it would lose digits where attention
        is peaked.
        """
        dot = partial(jnp.einsum, preferred_element_type=jnp.float32)
        weights = jnp.exp(self.scores(q, k, block) - log_total[..., None])
        d_weights = dot("KGTH,KSH->KGTS", d_out, v)
        product = jnp.sum(once(weights * d_weights), axis=-1, keepdims=True)
        d_scores = weights * (d_weights - product) * self.settings.cfg.score_scale
        weights, d_scores = once(weights.astype(v.dtype)), once(d_scores.astype(q.dtype))
        d_q = dot(f"KGTS,{_named(k)}->KGTH", d_scores, k)
        d_k = dot(f"KGTS,KGTH->{_named(k)}", d_scores, q)
        return d_q, d_k, dot("KGTS,KGTH->KSH", weights, d_out)


def _named(k: jax.Array) -> str:
    return "KSH" if k.ndim == 3 else "KGSH"


def _by_head(x: jax.Array) -> jax.Array:
    """Move the heads first, [K, …, T, H], so that one head's numbers are neighbours in memory."""
    return once(jnp.moveaxis(x, 0, -2))
