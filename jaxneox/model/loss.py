"""Next-token cross-entropy that never holds the logits of a whole batch.

The gradient of a sum of losses is known as soon as the logits are, so each chunk of the sequence
makes its logits once and turns them into loss and gradients at once. One matrix product forward
and two backward, as in the naive form, but memory for one chunk.
"""
# M micro-batches, B batch, T length, D hidden, V padded vocabulary
# S devices that split the length, n chunks of what each of them holds, C length of a chunk

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxneox.model.layout import Layout, dual, once


class Head(NamedTuple):
    """How the loss is computed; static."""

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
        """Those of them that devices may split between them."""
        return tuple(axis for axis in self.rows if axis is not None)


class Unembedding(NamedTuple):
    """`logits = x @ weight + bias`. Its gradient has the same form."""

    weight: jax.Array  # [D, V] in the compute dtype
    bias: jax.Array | None  # float32 [V]; few models have one


LOGITS = 2**25
"""Numbers that a device has at one time."""


class Softmax(NamedTuple):
    """`powers / total`, and the log of what they would sum to if no exponent were reduced."""

    powers: jax.Array  # [..., V], 1 where a logit is the greatest
    total: jax.Array  # [...]
    log_total: jax.Array  # [...]


def softmax(logits: jax.Array) -> Softmax:
    """Of [..., V], in their dtype."""
    most = jnp.max(logits, axis=-1)
    powers = once(jnp.exp(logits - most[..., None]))
    total = jnp.sum(powers, axis=-1)
    return Softmax(powers, total, most + jnp.log(total))


def chunk_length(length: int, logits: int, limit: int = LOGITS) -> int:
    """The longest divisor of `length` whose logits stay under `limit` numbers on a device, which
    has `logits` of them for each position."""
    fits = [c for c in range(1, length + 1) if length % c == 0 and c * logits <= limit]
    return max(fits, default=1)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def loss_sum(
    x_MBTD: jax.Array,
    unembedding: Unembedding,
    labels_MBT: jax.Array,
    weights_MBT: jax.Array,
    head: Head,
) -> jax.Array:
    """The sum over tokens of weight * (cross-entropy + z_loss * log(Z)^2), float32 []."""

    def add(total: jax.Array, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        x, labels, weights = chunk
        logits = project(x, unembedding, head.dtype)
        return total + _sum(_token_loss(logits, softmax(logits), labels, head) * weights), None

    return jax.lax.scan(add, jnp.float32(0), _chunks(head, x_MBTD, labels_MBT, weights_MBT))[0]


def _forward(x_MBTD, unembedding: Unembedding, labels_MBT, weights_MBT, head: Head):
    layout, w_DV = head.layout, unembedding.weight
    partial_dx = layout.partial(*head.rows, None, "embed", over="vocab")

    def add(carry, chunk):
        total, grads = carry
        x, labels, weights = chunk
        logits = project(x, unembedding, head.dtype)
        soft = softmax(logits)
        loss = _token_loss(logits, soft, labels, head)
        d = _token_gradient(soft, labels, weights, head)
        dx = jnp.einsum("MBSCV,DV->MBSCD", d.astype(x.dtype), w_DV, out_sharding=partial_dx)
        grads = jax.tree.map(jnp.add, grads, _unembedding_gradient(x, d, unembedding, head))
        return (total + _sum(loss * weights), grads), dx

    def nothing(w: jax.Array) -> jax.Array:
        return jax.reshard(
            jnp.zeros(w.shape, jnp.float32), layout.partial(*_axes(w), over=head.summed)
        )

    def finished(dw: jax.Array, w: jax.Array) -> jax.Array:
        return jax.reshard(dw, dual(w)).astype(w.dtype)

    chunks = _chunks(head, x_MBTD, labels_MBT, weights_MBT)
    start = (jnp.float32(0), jax.tree.map(nothing, unembedding))
    (total, grads), dx = jax.lax.scan(add, start, chunks)
    dx = jax.reshard(dx, layout.activation(None, *head.rows, None, "embed"))
    return total, (_whole(head, dx), jax.tree.map(finished, grads, unembedding))


def _backward(head: Head, saved, d):
    def times(x: jax.Array) -> jax.Array:
        sums = jax.typeof(x).sharding.spec.unreduced
        each = jax.reshard(d, PartitionSpec(reduced=sums)) if sums else d
        return (each * x).astype(x.dtype)

    return *jax.tree.map(times, saved), None, None


loss_sum.defvjp(_forward, _backward)


def project(x: jax.Array, unembedding: Unembedding, dtype: jnp.dtype) -> jax.Array:
    """[..., D] -> logits [..., V]; a bias is added in their own dtype, not in the product's."""
    logits = jnp.einsum("...D,DV->...V", x, unembedding.weight).astype(dtype)
    if unembedding.bias is None:
        return logits
    return logits + jnp.expand_dims(unembedding.bias.astype(dtype), range(x.ndim - 1))


def _unembedding_gradient(x, d, unembedding: Unembedding, head: Head) -> Unembedding:
    """float32, partial sums over the devices that split micro-batches, batch and length"""
    over = partial(head.layout.partial, over=head.summed)
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    spec = over("embed", "vocab")
    dw = product("MBSCD,MBSCV->DV", x, d.astype(x.dtype), out_sharding=spec)
    if unembedding.bias is None:
        return Unembedding(dw, None)
    rows = tuple(range(d.ndim - 1))
    db = jax.lax.reduce_sum(d.astype(jnp.float32), rows, out_sharding=over("vocab"))
    return Unembedding(dw, db)


def _sum(loss: jax.Array) -> jax.Array:
    """Row by row, then the rows: rounding grows with the number of terms in one sum, and XLA would
    make one sum of both."""
    return jnp.sum(jax.lax.optimization_barrier(jnp.sum(loss, axis=-1)))


def _axes(w: jax.Array) -> tuple[str, ...]:
    return ("embed", "vocab")[-w.ndim :]


def _token_loss(logits: jax.Array, soft: Softmax, labels: jax.Array, head: Head) -> jax.Array:
    """float32 [M, B, S, C]"""
    log_z = soft.log_total.astype(jnp.float32)
    chosen = jnp.sum(jnp.where(is_label(logits, labels, head.layout), logits, 0), axis=-1)
    return log_z - chosen.astype(jnp.float32) + head.z_loss * log_z**2


def _token_gradient(soft: Softmax, labels: jax.Array, weights: jax.Array, head: Head) -> jax.Array:
    """weight * (softmax * (1 + 2 z_loss log Z) - label)"""
    powers, log_z = soft.powers, soft.log_total.astype(jnp.float32)
    growth = weights * (1 + 2 * head.z_loss * log_z) / soft.total.astype(jnp.float32)
    label = jnp.where(is_label(powers, labels, head.layout), weights[..., None], 0)
    return powers * growth[..., None].astype(powers.dtype) - label.astype(powers.dtype)


def is_label(logits: jax.Array, labels: jax.Array, layout: Layout) -> jax.Array:
    """Which of [..., V] is the label [...]; devices may split the vocabulary."""
    last = logits.ndim - 1
    shape = (*(1,) * last, logits.shape[-1])
    spec = layout.activation(*(None,) * last, "vocab")
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, shape, last, out_sharding=spec)
    return vocabulary == labels[..., None]


def _chunks(head: Head, *arrays_MBT: jax.Array) -> tuple[jax.Array, ...]:
    """[M, B, T, *] -> [n, M, B, S, C, *]"""
    parts = head.layout.parts("length")

    def split(x: jax.Array) -> jax.Array:
        micro, batch, length, *rest = x.shape
        chunks = length // parts // head.chunk
        shape = (micro, batch, parts, chunks, head.chunk, *rest)
        spec = head.layout.activation(*head.rows, *(None,) * (2 + len(rest)))
        return jnp.moveaxis(jnp.reshape(x, shape, out_sharding=spec), 3, 0)

    return tuple(split(x) for x in arrays_MBT)


def _whole(head: Head, x: jax.Array) -> jax.Array:
    """[n, M, B, S, C, D] -> [M, B, T, D]"""
    chunks, micro, batch, parts, chunk, width = x.shape
    shape = (micro, batch, parts * chunks * chunk, width)
    return jnp.reshape(
        jnp.moveaxis(x, 0, 3), shape, out_sharding=head.layout.activation(*head.rows, None)
    )
