"""NVIDIA's fused attention: cuDNN's flash attention, as jax calls it.

Rows of one text go by `jax.nn.dot_product_attention`. Rows of several documents go by cuDNN's
packed layout, which that function does not offer: it is told where in a row every document begins
and how long it is, and attends inside of each. What the layout can do, by the sources of jax 0.10
to 0.12 (`jax/_src/cudnn/fused_attention_stablehlo.py`), of XLA (`cuda_dnn.cc`) and of cuDNN's
frontend (`node/scaled_dot_product_flash_attention.h`):

- float16 and bfloat16 on Hopper (compute capability 9.0) or later, with a window or without;
- at most `M` segments a row, a static number. Where a row has fewer, -1 is filled in, of which jax
  makes segments of no length at the end. Memory of no segment is never written: here every token
  is in one;
- jax before 0.12 counts the offsets of keys in strides of the queries, by which grouped heads read
  other tokens' keys (jax-ml/jax#39521): here each query head has a copy of its key and value;
- offsets count numbers, not tokens, in int32;
- the statistics of the softmax are float32 [B M, N, T]. The backward pass adds up the gradients of
  queries in a workspace, float32 [B M, N, T, H], as XLA does not tell cuDNN how many tokens there
  are in all (`set_max_total_seq_len_q`).
"""
# B batch, T length, K key-value heads, G query heads for each of them, H head
# M segments of a row, N query heads in all

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxneox.config.schema import AttentionConfig
from jaxneox.model.kernels.absent_gpu import capability
from jaxneox.model.kernels.blocked import blocked
from jaxneox.model.kernels.opaque import on_whole_rows
from jaxneox.model.layout import Layout

TOKENS_PER_DOCUMENT = 128
"""The average length of a row's documents down to which a row is cuDNN's."""

WORKSPACE = 2**31
"""Bytes that the backward pass of one call may take beside its results."""

HOPPER = (9, 0)
"""The first compute capability that has the packed layout."""


def unsupported(cfg: AttentionConfig, length: int, packed: bool) -> str | None:
    """Name the first requested feature that this kernel cannot compute, or return None.

    Args:
        cfg: the attention's sizes.
        length: tokens of a row.
        packed: the rows have several documents that are kept apart.
    """
    if cfg.head_dim % 8 or cfg.head_dim > 128:
        return f"heads of {cfg.head_dim} (a multiple of 8 up to 128)"
    if packed and capability() < HOPPER:
        return "packed documents on GPUs before Hopper (compute capability 9.0)"
    if packed and length * cfg.num_heads * cfg.head_dim >= 2**31:
        return f"packed documents in rows of {length} (offsets count numbers in int32)"
    return None


def fused(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions_T: jax.Array,
    documents_BT: jax.Array | None,
    cfg: AttentionConfig,
    layout: Layout,
) -> jax.Array:
    """Mix queries [B, T, K, G, H], keys [B, T, K, (1,) H] and values [B, T, K, H] like `mix`.

    Rows of more documents than cuDNN is given room for are computed by `blocked`, all rows of the
    step with them: which of the two it is depends on the batch alone, and both are the same
    function.
    """
    if documents_BT is None:
        return on_whole_rows(partial(_even, partial(_one_text, cfg)), q, k, v, None, layout)
    heads = cfg.num_heads // layout.parts("kv_heads")
    most = most_documents(q.shape[1], heads * cfg.head_dim)
    local = partial(_even, partial(_packed, cfg, most))

    def by_segments(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array) -> jax.Array:
        return on_whole_rows(local, q, k, v, documents, layout)

    def by_blocks(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array) -> jax.Array:
        out = blocked(q, k, v, positions_T, None, documents, cfg, layout)
        return jax.reshard(out, layout.activation("batch", "length", "kv_heads", None, None))

    @jax.checkpoint  # or the forward pass would keep what either of the two needs, filled or not
    def either(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array) -> jax.Array:
        counts_B = jnp.sum(begins(documents), axis=1, dtype=jnp.int32)
        fits = jnp.max(counts_B) <= most
        return jax.lax.cond(fits, by_segments, by_blocks, q, k, v, documents)

    return either(q, k, v, documents_BT)


def most_documents(length: int, width: int) -> int:
    """Return how many documents of a row [length, width] cuDNN is given room for: M, 2 or more.

    One for every 128 tokens, and no more than fit into the workspace: the backward pass takes
    float32 [length, width] for each, used or not, and fills it with zeros.
    """
    return max(2, min(length // TOKENS_PER_DOCUMENT, WORKSPACE // (4 * length * width)))


def begins(documents_BT: jax.Array) -> jax.Array:
    """Mark the first token of every document: bool [B, T]."""
    changed = documents_BT[:, 1:] != documents_BT[:, :-1]
    return jnp.pad(changed, ((0, 0), (1, 0)), constant_values=True)


def segments(documents_BT: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Find where each document of a row begins, and its length, as cuDNN's packed layout wants it.

    Args:
        documents_BT: the documents' numbers; the tokens of a document are neighbours.
        most: documents of a row, at most (M).

    Returns:
        Offsets, int32 [B, M + 1], and lengths, int32 [B, M]; -1 where a row has fewer.
    """
    length = documents_BT.shape[1]
    find = partial(jnp.nonzero, size=most + 1, fill_value=length)
    starts = jax.vmap(lambda marks: find(marks)[0].astype(jnp.int32))(begins(documents_BT))
    lengths = jnp.diff(starts, axis=1)
    return jnp.where(starts < length, starts, -1), jnp.where(lengths > 0, lengths, -1)


def _even(
    local: Callable[..., jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *documents: jax.Array,
) -> jax.Array:
    """Run `local` with a token more where their number is odd, which jax refuses in training.

    It is the last one, so that no other sees it, and belongs to the last document.
    """
    length = q.shape[1]
    if length % 2 == 0:
        return local(q, k, v, *documents)
    q, k, v = (jnp.pad(x, ((0, 0), (0, 1), *((0, 0),) * (x.ndim - 2))) for x in (q, k, v))
    longer = (jnp.pad(x, ((0, 0), (0, 1)), mode="edge") for x in documents)
    return local(q, k, v, *longer)[:, :length]


def _one_text(cfg: AttentionConfig, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    batch, length, heads, group, width = q.shape
    out = jax.nn.dot_product_attention(
        q.reshape(batch, length, heads * group, width),
        k,
        v,
        scale=cfg.score_scale,
        is_causal=True,
        local_window_size=None if cfg.window is None else (cfg.window, 0),
        implementation="cudnn",
    )
    return out.reshape(q.shape)


def _packed(
    cfg: AttentionConfig,
    most: int,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    documents_BT: jax.Array,
) -> jax.Array:
    """Compute one device's rows, as many at once as the workspace holds."""
    batch, length, heads, group, width = q.shape
    shape = (batch, length, heads * group, width)
    k, v = (jnp.broadcast_to(x[:, :, :, None], q.shape).reshape(shape) for x in (k, v))
    arrays = (q.reshape(shape), k, v, *segments(documents_BT, most))
    rows = rows_at_once(batch, 4 * most * math.prod(shape[1:]))
    if rows == batch:
        return _call(cfg, *arrays).reshape(q.shape)
    parts = tuple(x.reshape(batch // rows, rows, *x.shape[1:]) for x in arrays)
    return jax.lax.map(lambda each: _call(cfg, *each), parts).reshape(q.shape)


def rows_at_once(batch: int, workspace: int) -> int:
    """Return the most rows that divide the batch and together stay within the workspace, or 1."""
    fit = [n for n in range(1, batch + 1) if batch % n == 0 and n * workspace <= WORKSPACE]
    return max(fit, default=1)


def _call(
    cfg: AttentionConfig,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    offsets: jax.Array,
    lengths: jax.Array,
) -> jax.Array:
    """Attend inside the segments: q, k and v [B, T, N, H], offsets [B, M + 1], lengths [B, M]."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    return cudnn.dot_product_attention(
        q,
        k,
        v,
        q_seqlen=lengths,
        kv_seqlen=lengths,
        q_offsets=offsets,
        kv_offsets=offsets,
        scale=cfg.score_scale,
        mask_type=cudnn.MaskType.PADDING_CAUSAL,
        sliding_window_length=None if cfg.window is None else cfg.window + 1,  # with itself
    )
