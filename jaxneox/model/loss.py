"""Next-token cross-entropy that never holds the logits of a whole batch.

The gradient of a sum of losses is known as soon as the logits are, so each chunk of the sequence
makes its logits once and turns them into loss and gradients at once. One matrix product forward
and two backward, as in the naive form, but memory for one chunk.
"""
# M micro-batches, B batch, T length, D hidden, V padded vocabulary
# S devices that split the length, n chunks of what each of them holds, C length of a chunk

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxneox.model.layout import Layout, dual, once
from jaxneox.model.unembedding import Unembedding, gathered, is_whole, project, scattered


class LossSettings(NamedTuple):
    """How the loss is computed; static while it is traced.

    Attributes:
        layout: how arrays lie on the devices.
        z_loss: the weight of `log(Z)^2`.
        chunk: how many positions on a device have logits at one time.
        dtype: the dtype of logits and softmax; float32 but for fp16-lm-cross-entropy.
        micro: the logical axis of the micro-batches if they are split, else None.
    """

    layout: Layout
    z_loss: float
    chunk: int  # positions on a device that have logits at one time
    dtype: jnp.dtype  # of logits and softmax; float32 but for fp16-lm-cross-entropy
    micro: str | None = None  # the axis of the micro-batches, where they are split

    @property
    def rows(self) -> tuple[str | None, ...]:
        """The axes M, B, S of everything that is summed up."""
        return self.micro, "batch", "length"

    @property
    def summed(self) -> tuple[str, ...]:
        """The axes among `rows` that devices may split between them."""
        return tuple(axis for axis in self.rows if axis is not None)


MAX_LOGITS = 2**25
"""How many logits a device holds at one time, at most."""


class Softmax(NamedTuple):
    """A softmax as `powers / total`, with the log of the sum of the exponentials."""

    powers: jax.Array  # [..., V], 1 where a logit is the greatest
    total: jax.Array  # [...]
    log_total: jax.Array  # [...]


def softmax(logits: jax.Array) -> Softmax:
    """Compute the softmax of logits [..., V] in their dtype."""
    most = jnp.max(logits, axis=-1)
    powers = once(jnp.exp(logits - most[..., None]))
    total = jnp.sum(powers, axis=-1)
    return Softmax(powers, total, most + jnp.log(total))


def chunk_length(length: int, logits: int, limit: int = MAX_LOGITS) -> int:
    """Return the longest divisor of `length` whose logits are at most `limit` numbers on a device.

    Args:
        length: positions that a device holds.
        logits: numbers that a device has for each position.
        limit: numbers that it may hold at one time.
    """
    fits = [c for c in range(1, length + 1) if length % c == 0 and c * logits <= limit]
    return max(fits, default=1)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def loss_sum(
    x_MBTD: jax.Array,
    unembedding: Unembedding,
    labels_MBT: jax.Array,
    weights_MBT: jax.Array,
    settings: LossSettings,
) -> jax.Array:
    """Sum over tokens: weight * (cross-entropy + z_loss * log(Z)^2), float32 []."""
    unembedding = gathered(unembedding, settings.layout)

    def add(total: jax.Array, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        x, labels, weights = chunk
        logits = project(x, unembedding, settings.dtype)
        return total + _sum(token_loss(logits, softmax(logits), labels, settings) * weights), None

    chunks = cut_in_chunks(settings, x_MBTD, labels_MBT, weights_MBT)
    return jax.lax.scan(add, jnp.float32(0), chunks)[0]


def _forward(
    x_MBTD: jax.Array,
    unembedding: Unembedding,
    labels_MBT: jax.Array,
    weights_MBT: jax.Array,
    settings: LossSettings,
) -> tuple[jax.Array, tuple[jax.Array, Unembedding]]:
    def each(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> OfTokens:
        soft = softmax(logits)
        loss = token_loss(logits, soft, labels, settings)
        return OfTokens(loss, weights, token_gradient(soft, labels, weights, settings))

    return sum_and_gradients(each, x_MBTD, unembedding, (labels_MBT, weights_MBT), settings)


class OfTokens(NamedTuple):
    """What a chunk of logits gives.

    Attributes:
        loss: float32 [M, B, S, C].
        weights: of the losses in their sum.
        gradient: of that sum with respect to the logits, [M, B, S, C, V].
    """

    loss: jax.Array
    weights: jax.Array
    gradient: jax.Array


def sum_and_gradients(
    each: Callable[..., OfTokens],
    x_MBTD: jax.Array,
    unembedding: Unembedding,
    arrays_MBT: tuple[jax.Array, ...],
    settings: LossSettings,
) -> tuple[jax.Array, tuple[jax.Array, Unembedding]]:
    """Sum weighted losses of logits, with the sum's gradients, chunk by chunk.

    Args:
        each: takes a chunk of the logits and of the arrays.
        x_MBTD: the last hidden states.
        unembedding: turns them into logits; it may be stored in parts, as its gradient then is.
        arrays_MBT: what the loss of a token depends on besides, each [M, B, T, *].
        settings: how it is computed.

    Returns:
        The sum, and its gradients with respect to the hidden states and the unembedding.
    """
    layout, stored = settings.layout, unembedding
    unembedding = gathered(stored, layout, settings.summed)
    partial_dx = layout.partial(*settings.rows, None, "embed", over="vocab")

    def add(carry: Any, chunk: tuple[jax.Array, ...]) -> tuple[Any, jax.Array]:
        total, grads = carry
        x, *arrays = chunk
        logits = project(x, unembedding, settings.dtype)
        loss, weights, d = each(logits, *arrays)
        dx = jnp.einsum(
            "MBSCV,DV->MBSCD", d.astype(x.dtype), unembedding.weight, out_sharding=partial_dx
        )
        grads = jax.tree.map(jnp.add, grads, _unembedding_gradient(x, d, unembedding, settings))
        return (total + _sum(loss * weights), grads), dx

    def nothing(w: jax.Array) -> jax.Array:
        return jax.reshard(
            jnp.zeros(w.shape, jnp.float32), layout.partial(*_axes(w), over=settings.summed)
        )

    chunks = cut_in_chunks(settings, x_MBTD, *arrays_MBT)
    start = (jnp.float32(0), jax.tree.map(nothing, unembedding))
    (total, grads), dx = jax.lax.scan(add, start, chunks)
    dx = jax.reshard(dx, layout.activation(None, *settings.rows, None, "embed"))
    found = joined(settings, dx), _added_up(grads, stored, settings)
    if not is_whole(stored, layout):  # else a whole gradient waits until the layers have theirs
        found = jax.lax.optimization_barrier(found)
    return total, found


def _added_up(grads: Unembedding, stored: Unembedding, settings: LossSettings) -> Unembedding:
    """Add up partial sums of the unembedding's gradient, each part where it is stored."""
    weight = scattered(grads.weight, stored.weight, settings.layout, settings.summed)
    if grads.bias is None or stored.bias is None:
        return Unembedding(weight, None)
    return Unembedding(weight, jax.reshard(grads.bias, dual(stored.bias)).astype(jnp.float32))


def _backward(settings: LossSettings, saved: Any, d: jax.Array) -> tuple[Any, ...]:
    def times(x: jax.Array) -> jax.Array:
        sums = jax.typeof(x).sharding.spec.unreduced
        each = jax.reshard(d, PartitionSpec(reduced=sums)) if sums else d
        return (each * x).astype(x.dtype)

    return *jax.tree.map(times, saved), None, None


loss_sum.defvjp(_forward, _backward)


def _unembedding_gradient(
    x: jax.Array, d: jax.Array, unembedding: Unembedding, settings: LossSettings
) -> Unembedding:
    """Compute it in float32, as partial sums over the devices that split M, B and T."""
    over = partial(settings.layout.partial, over=settings.summed)
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    spec = over("embed", "vocab")
    dw = product("MBSCD,MBSCV->DV", x, d.astype(x.dtype), out_sharding=spec)
    if unembedding.bias is None:
        return Unembedding(dw, None)
    rows = tuple(range(d.ndim - 1))
    db = jax.lax.reduce_sum(d.astype(jnp.float32), rows, out_sharding=over("vocab"))
    return Unembedding(dw, db)


def _sum(loss: jax.Array) -> jax.Array:
    """Sum row by row, then the rows: rounding grows with the number of terms in one sum.

    The barrier is there because XLA would make one sum of both.
    """
    return jnp.sum(jax.lax.optimization_barrier(jnp.sum(loss, axis=-1)))


def _axes(w: jax.Array) -> tuple[str, ...]:
    return ("embed", "vocab")[-w.ndim :]


def token_loss(
    logits: jax.Array, soft: Softmax, labels: jax.Array, settings: LossSettings
) -> jax.Array:
    """Compute the loss of each token, float32 [M, B, S, C]."""
    log_z = soft.log_total.astype(jnp.float32)
    chosen = jnp.sum(jnp.where(is_label(logits, labels, settings.layout), logits, 0), axis=-1)
    return log_z - chosen.astype(jnp.float32) + settings.z_loss * log_z**2


def token_gradient(
    soft: Softmax, labels: jax.Array, weights: jax.Array, settings: LossSettings
) -> jax.Array:
    """Compute the gradient of the logits: weight * (softmax * (1 + 2 z_loss log Z) - label)."""
    powers, log_z = soft.powers, soft.log_total.astype(jnp.float32)
    growth = weights * (1 + 2 * settings.z_loss * log_z) / soft.total.astype(jnp.float32)
    label = jnp.where(is_label(powers, labels, settings.layout), weights[..., None], 0)
    return powers * growth[..., None].astype(powers.dtype) - label.astype(powers.dtype)


def is_label(logits: jax.Array, labels: jax.Array, layout: Layout) -> jax.Array:
    """Mark the label [...] among logits [..., V]; devices may split the vocabulary."""
    last = logits.ndim - 1
    shape = (*(1,) * last, logits.shape[-1])
    spec = layout.activation(*(None,) * last, "vocab")
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, shape, last, out_sharding=spec)
    return vocabulary == labels[..., None]


def cut_in_chunks(settings: LossSettings, *arrays_MBT: jax.Array) -> tuple[jax.Array, ...]:
    """Cut arrays [M, B, T, *] into [n, M, B, S, C, *]."""
    parts = settings.layout.parts("length")

    def split(x: jax.Array) -> jax.Array:
        micro, batch, length, *rest = x.shape
        chunks = length // parts // settings.chunk
        shape = (micro, batch, parts, chunks, settings.chunk, *rest)
        spec = settings.layout.activation(*settings.rows, *(None,) * (2 + len(rest)))
        return jnp.moveaxis(jnp.reshape(x, shape, out_sharding=spec), 3, 0)

    return tuple(split(x) for x in arrays_MBT)


def joined(settings: LossSettings, x: jax.Array) -> jax.Array:
    """Join chunks [n, M, B, S, C, *] into [M, B, T, *]."""
    chunks, micro, batch, parts, chunk, *rest = x.shape
    shape = (micro, batch, parts * chunks * chunk, *rest)
    spec = settings.layout.activation(*settings.rows, *(None,) * len(rest))
    return jnp.reshape(jnp.moveaxis(x, 0, 3), shape, out_sharding=spec)
