"""Next-token cross-entropy that never holds the logits of a whole batch.

The gradient of a sum of losses is known as soon as the logits are, so each chunk of the sequence
makes its logits once and turns them into loss and gradients at once. One matrix product forward
and two backward, as in the naive form, but memory for one chunk.
"""
# B batch, T length, C chunk of the length, D hidden, V padded vocabulary

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxneox.model.layout import Layout


class Head(NamedTuple):
    """How the loss is computed; static."""

    layout: Layout
    z_loss: float
    chunk: int  # positions of the sequence that have logits at one time
    dtype: jnp.dtype  # of logits and softmax; float32 but for fp16-lm-cross-entropy


class Unembedding(NamedTuple):
    """`logits = x @ weight + bias`. Its gradient has the same form."""

    weight: jax.Array  # [D, V] in the compute dtype
    bias: jax.Array | None  # float32 [V]; few models have one


def chunk_length(length: int, logits: int, limit: int = 2**25) -> int:
    """The longest divisor of `length` whose logits stay under `limit` numbers on a device, which
    has `logits` of them for each position."""
    fits = [c for c in range(1, length + 1) if length % c == 0 and c * logits <= limit]
    return max(fits, default=1)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def loss_sum(
    x_BTD: jax.Array,
    unembedding: Unembedding,
    labels_BT: jax.Array,
    weights_BT: jax.Array,
    head: Head,
) -> jax.Array:
    """The sum over tokens of weight * (cross-entropy + z_loss * log(Z)^2), float32 []."""

    def add(total: jax.Array, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        x, labels, weights = chunk
        loss, _ = _token_loss(project(x, unembedding, head.dtype), labels, head)
        return total + jnp.sum(loss * weights), None

    return jax.lax.scan(add, jnp.float32(0), _chunks(head, x_BTD, labels_BT, weights_BT))[0]


def _forward(x_BTD, unembedding: Unembedding, labels_BT, weights_BT, head: Head):
    layout, w_DV = head.layout, unembedding.weight
    partial_dx = layout.partial("batch", "length", "embed", over="vocab")

    def add(carry, chunk):
        total, grads = carry
        x, labels, weights = chunk
        logits = project(x, unembedding, head.dtype)
        loss, log_z = _token_loss(logits, labels, head)
        d = _token_gradient(logits, log_z, labels, weights, head)
        dx = jnp.einsum("BCV,DV->BCD", d.astype(x.dtype), w_DV, out_sharding=partial_dx)
        grads = jax.tree.map(jnp.add, grads, _unembedding_gradient(x, d, unembedding, layout))
        return (total + jnp.sum(loss * weights), grads), dx

    def nothing(w: jax.Array) -> jax.Array:
        return jax.reshard(jnp.zeros(w.shape, jnp.float32), layout.partial(*_axes(w), over="batch"))

    def finished(dw: jax.Array, w: jax.Array) -> jax.Array:
        return jax.reshard(dw, layout.activation(*_axes(w))).astype(w.dtype)

    chunks = _chunks(head, x_BTD, labels_BT, weights_BT)
    start = (jnp.float32(0), jax.tree.map(nothing, unembedding))
    (total, grads), dx = jax.lax.scan(add, start, chunks)
    dx = jax.reshard(dx, layout.activation(None, "batch", "length", "embed"))
    return total, (_whole(head, dx), jax.tree.map(finished, grads, unembedding))


def _backward(head: Head, saved, d):
    return *jax.tree.map(lambda x: (d * x).astype(x.dtype), saved), None, None


loss_sum.defvjp(_forward, _backward)


def project(x_BCD: jax.Array, unembedding: Unembedding, dtype: jnp.dtype) -> jax.Array:
    """-> logits [B, C, V]; a bias is added in their own dtype, not in the product's."""
    logits = jnp.einsum("BCD,DV->BCV", x_BCD, unembedding.weight).astype(dtype)
    bias = unembedding.bias
    return logits if bias is None else logits + bias.astype(dtype)[None, None]


def _unembedding_gradient(x, d, unembedding: Unembedding, layout: Layout) -> Unembedding:
    """float32, partial sums over the devices that split the batch"""
    over = partial(layout.partial, over="batch")
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    dw = product("BCD,BCV->DV", x, d.astype(x.dtype), out_sharding=over("embed", "vocab"))
    if unembedding.bias is None:
        return Unembedding(dw, None)
    db = jax.lax.reduce_sum(d.astype(jnp.float32), (0, 1), out_sharding=over("vocab"))
    return Unembedding(dw, db)


def _axes(w: jax.Array) -> tuple[str, ...]:
    return ("embed", "vocab")[-w.ndim :]


def _token_loss(logits: jax.Array, labels: jax.Array, head: Head) -> tuple[jax.Array, jax.Array]:
    """-> the loss of each token and its log Z, float32 [B, C]"""
    log_z = jax.nn.logsumexp(logits, axis=-1).astype(jnp.float32)
    chosen = jnp.sum(jnp.where(_is_label(logits, labels), logits, 0), axis=-1).astype(jnp.float32)
    return log_z - chosen + head.z_loss * log_z**2, log_z


def _token_gradient(logits, log_z, labels, weights, head: Head) -> jax.Array:
    """weight * (softmax * (1 + 2 z_loss log Z) - label)"""
    softmax = jnp.exp(logits - log_z[..., None].astype(logits.dtype))
    growth = (weights * (1 + 2 * head.z_loss * log_z))[..., None].astype(logits.dtype)
    label = jnp.where(_is_label(logits, labels), weights[..., None].astype(logits.dtype), 0)
    return softmax * growth - label


def _is_label(logits: jax.Array, labels: jax.Array) -> jax.Array:
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, (1, 1, logits.shape[-1]), 2)
    return vocabulary == labels[..., None]


def _chunks(head: Head, *arrays_BT: jax.Array) -> tuple[jax.Array, ...]:
    """[B, T, ...] -> [T / C, B, C, ...]"""

    def split(x: jax.Array) -> jax.Array:
        batch, length = x.shape[:2]
        shape = (batch, length // head.chunk, head.chunk, *x.shape[2:])
        return jnp.moveaxis(_reshape(head, x, shape), 1, 0)

    return tuple(split(x) for x in arrays_BT)


def _whole(head: Head, x: jax.Array) -> jax.Array:
    """[T / C, B, C, D] -> [B, T, D]"""
    chunks, batch, chunk, width = x.shape
    return _reshape(head, jnp.moveaxis(x, 0, 1), (batch, chunks * chunk, width))


def _reshape(head: Head, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Only the batch is split over devices, which jax cannot tell where its size is 1."""
    spec = head.layout.activation("batch", *(None,) * (len(shape) - 1))
    return jnp.reshape(x, shape, out_sharding=spec)
