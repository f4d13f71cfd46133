"""The divergence of the model's next-token distribution from another model's."""
# M micro-batches, B batch, T length, D hidden; chunks are [M, B, S, C, V], see `loss`

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxneox.model.loss import (
    LossSettings,
    OfTokens,
    cut_in_chunks,
    joined,
    softmax,
    sum_and_gradients,
)
from jaxneox.model.unembedding import Unembedding, gathered, project


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def divergences(
    x_MBTD: jax.Array,
    unembedding: Unembedding,
    other_MBTD: jax.Array,
    other_unembedding: Unembedding,
    settings: LossSettings,
) -> jax.Array:
    """Compute KL(model || other) after each token, float32 [M, B, T] in nats.

    It is the sum over the vocabulary of p (log p - log q). The other model has no gradient.

    Args:
        x_MBTD: the model's last hidden states.
        unembedding: turns them into logits.
        other_MBTD: the other model's.
        other_unembedding: turns those into logits.
        settings: how it is computed.
    """
    unembedding = gathered(unembedding, settings.layout)
    other_unembedding = gathered(other_unembedding, settings.layout)

    def of(chunk: tuple[jax.Array, ...]) -> jax.Array:
        x, other = chunk
        logits = project(x, unembedding, settings.dtype)
        return _divergence(logits, project(other, other_unembedding, settings.dtype))[0]

    return joined(settings, jax.lax.map(of, cut_in_chunks(settings, x_MBTD, other_MBTD)))


def _divergence(logits: jax.Array, others: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute the divergence [...] of logits [..., V], and its gradient with respect to them."""
    soft, other = softmax(logits), softmax(others)
    p = soft.powers / soft.total[..., None]
    ratio = (logits - soft.log_total[..., None]) - (others - other.log_total[..., None])
    ratio = jnp.where(p > 0, ratio, 0)  # rows that were added for the devices have -inf in both
    divergence = jnp.sum(p * ratio, axis=-1)
    return divergence, p * (ratio - divergence[..., None])


def _forward(
    x_MBTD: jax.Array,
    unembedding: Unembedding,
    other_MBTD: jax.Array,
    other_unembedding: Unembedding,
    settings: LossSettings,
) -> tuple[jax.Array, tuple[Any, ...]]:
    given = x_MBTD, unembedding, other_MBTD, other_unembedding
    return divergences(*given, settings), given


def _backward(settings: LossSettings, saved: tuple[Any, ...], d_MBT: jax.Array) -> tuple[Any, ...]:
    x_MBTD, unembedding, other_MBTD, other_unembedding = saved
    other_unembedding = gathered(other_unembedding, settings.layout)

    def each(logits: jax.Array, other: jax.Array, d: jax.Array) -> OfTokens:
        others = project(other, other_unembedding, settings.dtype)
        divergence, gradient = _divergence(logits, others)
        return OfTokens(divergence, d, gradient * d[..., None])

    arrays = other_MBTD, d_MBT
    return *sum_and_gradients(each, x_MBTD, unembedding, arrays, settings)[1], None, None


divergences.defvjp(_forward, _backward)
