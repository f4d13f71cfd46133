"""cuDNN's fused attention in plain jax, in its place on CPUs: what the tests hold cudnn.py against.

It stands where XLA calls cuDNN, below all of jax's own code, and reads what cuDNN would: flat
memory, where each segment begins in it (in numbers, not tokens), and its length. Memory that no
segment covers is never written, here NaN. The layouts are those of cuDNN's documentation
(https://docs.nvidia.com/deeplearning/cudnn/frontend/latest/operations/Attention.html): queries b of
`B M` segments begin at `ragged_offset[b]`, and tokens are `heads * head` numbers apart.
"""
# B batch, T length, M segments of a row, C = B M segments in all, N heads, H head

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax._src.interpreters import mlir

from jaxneox.model import kernels
from jaxneox.model.kernels.absent_gpu import described

PRIMITIVES = cudnn._dot_product_attention_fwd_p, cudnn._dot_product_attention_bwd_p


@contextmanager
def traced_for_hopper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trace as on a GPU of compute capability 9.0 with cuDNN, which is not there."""
    with monkeypatch.context() as patch, described((9, 0), (9, 10, 0)):
        patch.setattr(kernels, "platform", lambda: "gpu")
        yield


@contextmanager
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Also compute on the CPU what cuDNN would."""
    lowerings = mlir._platform_specific_lowerings["cpu"]
    for primitive, function in zip(PRIMITIVES, (forward, backward), strict=True):
        lowering = mlir.lower_fun(freely(function), multiple_results=True)
        mlir.register_lowering(primitive, lowering, platform="cpu")
    try:
        with traced_for_hopper(monkeypatch):
            yield
    finally:
        for primitive in PRIMITIVES:
            del lowerings[primitive]


def freely(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let it add arrays of different ranks, which the tests forbid elsewhere."""

    def run(*args: Any, **settings: Any) -> Any:
        with jax.numpy_rank_promotion("allow"):
            return function(*args, **settings)

    return run


class Segments:
    """Segments [C, T, N, H] of flat memory, up to T tokens each."""

    def __init__(self, offsets: jax.Array, lengths: jax.Array, shape: tuple[int, ...]):
        _, length, heads, width = shape
        count = lengths.size
        self.shape, self.lengths_C = shape, lengths.reshape(-1)
        token = jnp.arange(length)[:, None, None] * (heads * width)
        inside = token + jnp.arange(heads)[:, None] * width + jnp.arange(width)
        self.place = offsets.reshape(-1)[:count, None, None, None] + inside
        self.real_CT = jnp.arange(length) < self.lengths_C[:, None]

    def read(self, x: jax.Array) -> jax.Array:
        found = jnp.take(x.reshape(-1), self.place, mode="fill", fill_value=jnp.nan)
        return jnp.where(self.real_CT[..., None, None], found.astype(jnp.float32), 0)

    def write(self, x: jax.Array, dtype: Any) -> jax.Array:
        memory = jnp.full(self.shape, jnp.nan, dtype).reshape(-1)
        place = jnp.where(self.real_CT[..., None, None], self.place, memory.size)
        return memory.at[place].set(x.astype(dtype), mode="drop").reshape(self.shape)


def scores(q: jax.Array, k: jax.Array, real_CT: jax.Array, cfg: Any) -> jax.Array:
    """Float32 [C, N, T, S]; the causal mask and the window count from a segment's begin."""
    assert cfg["mask_type"] == cudnn.MaskType.PADDING_CAUSAL and not cfg["dropout_rate"]
    behind = jnp.arange(q.shape[1])[:, None] - jnp.arange(k.shape[1])
    window = cfg["sliding_window_length"]
    seen = (behind >= 0) & (behind < (k.shape[1] if window is None else window))
    group = q.shape[2] // k.shape[2]
    found = jnp.einsum("cthd,cshd->chts", q, jnp.repeat(k, group, axis=2)) * cfg["scale"]
    return jnp.where(seen & real_CT[:, None, None, :], found, -jnp.inf)


def read_all(arrays: tuple[jax.Array, ...]) -> tuple[Any, ...]:
    q, k, v, _, q_lengths, kv_lengths, q_offsets, kv_offsets = arrays[:8]
    queries = Segments(q_offsets, q_lengths, q.shape)
    keys = Segments(kv_offsets, kv_lengths, k.shape)
    return queries, keys, queries.read(q), keys.read(k), keys.read(v)


def forward(*arrays: jax.Array, is_training: bool, **cfg: Any) -> tuple[jax.Array, ...]:
    queries, keys, q, k, v = read_all(arrays)
    found = scores(q, k, keys.real_CT, cfg)
    group = q.shape[2] // k.shape[2]
    out = jnp.einsum("chts,cshd->cthd", jax.nn.softmax(found), jnp.repeat(v, group, axis=2))
    stats = jax.nn.logsumexp(found, axis=-1)
    written = queries.write(out, arrays[0].dtype)
    return (written, stats) if is_training else (written,)


def backward(*arrays: jax.Array, **cfg: Any) -> tuple[jax.Array, ...]:
    queries, keys, q, k, v = read_all(arrays)
    stats, out, d_out = arrays[10], queries.read(arrays[11]), queries.read(arrays[12])
    group = q.shape[2] // k.shape[2]
    many_k, many_v = (jnp.repeat(x, group, axis=2) for x in (k, v))
    found = scores(q, k, keys.real_CT, cfg)
    weights = jnp.exp(found - jnp.where(jnp.isfinite(stats), stats, 0)[..., None])
    d_weights = jnp.einsum("cthd,cshd->chts", d_out, many_v)
    sums = jnp.einsum("cthd,cthd->cht", d_out, out)
    d_scores = weights * (d_weights - sums[..., None]) * cfg["scale"]
    d_q = jnp.einsum("chts,cshd->cthd", d_scores, many_k)
    d_k = jnp.einsum("chts,cthd->cshd", d_scores, q)
    d_v = jnp.einsum("chts,cthd->cshd", weights, d_out)
    d_k, d_v = (x.reshape(*k.shape[:3], group, -1).sum(3) for x in (d_k, d_v))
    written = (s.write(x, arrays[0].dtype) for s, x in ((queries, d_q), (keys, d_k), (keys, d_v)))
    return tuple(written)
