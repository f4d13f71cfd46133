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


def chunk_length(length: int, logits: int, limit: int = 2**25) -> int:
    """The longest divisor of `length` whose logits stay under `limit` numbers on a device, which
    has `logits` of them for each position."""
    fits = [c for c in range(1, length + 1) if length % c == 0 and c * logits <= limit]
    return max(fits, default=1)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def loss_sum(
    x_BTD: jax.Array, w_DV: jax.Array, labels_BT: jax.Array, weights_BT: jax.Array, head: Head
) -> jax.Array:
    """The sum over tokens of weight * (cross-entropy + z_loss * log(Z)^2), float32 []."""

    def add(total: jax.Array, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        x, labels, weights = chunk
        loss, _ = _token_loss(_logits(x, w_DV, head), labels, head)
        return total + jnp.sum(loss * weights), None

    return jax.lax.scan(add, jnp.float32(0), _chunks(head, x_BTD, labels_BT, weights_BT))[0]


def _forward(x_BTD, w_DV, labels_BT, weights_BT, head: Head):
    layout = head.layout
    partial_dx = layout.partial("batch", "length", "embed", over="vocab")
    partial_dw = layout.partial("embed", "vocab", over="batch")

    def add(carry, chunk):
        total, dw = carry
        x, labels, weights = chunk
        logits = _logits(x, w_DV, head)
        loss, log_z = _token_loss(logits, labels, head)
        d = _token_gradient(logits, log_z, labels, weights, head).astype(x.dtype)
        dx = jnp.einsum("BCV,DV->BCD", d, w_DV, out_sharding=partial_dx)
        dw = dw + jnp.einsum(
            "BCD,BCV->DV", x, d, preferred_element_type=jnp.float32, out_sharding=partial_dw
        )
        return (total + jnp.sum(loss * weights), dw), dx

    nothing = jax.reshard(jnp.zeros(w_DV.shape, jnp.float32), partial_dw)
    chunks = _chunks(head, x_BTD, labels_BT, weights_BT)
    (total, dw_DV), dx = jax.lax.scan(add, (jnp.float32(0), nothing), chunks)
    dx = jax.reshard(dx, layout.activation(None, "batch", "length", "embed"))
    dx_BTD = _whole(head, dx)
    dw_DV = jax.reshard(dw_DV, layout.activation("embed", "vocab")).astype(w_DV.dtype)
    return total, (dx_BTD, dw_DV)


def _backward(head: Head, saved, d):
    dx_BTD, dw_DV = saved
    return (d * dx_BTD).astype(dx_BTD.dtype), (d * dw_DV).astype(dw_DV.dtype), None, None


loss_sum.defvjp(_forward, _backward)


def _logits(x_BCD: jax.Array, w_DV: jax.Array, head: Head) -> jax.Array:
    return jnp.einsum("BCD,DV->BCV", x_BCD, w_DV).astype(head.dtype)


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
