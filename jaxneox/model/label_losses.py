"""The loss of each label, with a gradient that makes the logits of one chunk at a time.

A loss that is no sum over tokens, as that of a pair of texts, has a gradient by token that is known
only once all tokens are. So the backward pass makes the logits once more.
"""
# M micro-batches, B batch, T length, D hidden; chunks are [M, B, S, C], see `loss`

from functools import partial
from typing import Any

import jax

from jaxneox.model.loss import (
    LossSettings,
    OfTokens,
    cut_in_chunks,
    joined,
    softmax,
    sum_and_gradients,
    token_gradient,
    token_loss,
)
from jaxneox.model.unembedding import Unembedding, gathered, project


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def label_losses(
    x_MBTD: jax.Array, unembedding: Unembedding, labels_MBT: jax.Array, settings: LossSettings
) -> jax.Array:
    """Compute the cross-entropy of each label, float32 [M, B, T] in nats.

    Args:
        x_MBTD: the last hidden states, after the final norm.
        unembedding: turns them into logits.
        labels_MBT: int, the token that follows each position.
        settings: how it is computed.
    """
    unembedding = gathered(unembedding, settings.layout)

    def losses(chunk: tuple[jax.Array, ...]) -> jax.Array:
        x, labels = chunk
        logits = project(x, unembedding, settings.dtype)
        return token_loss(logits, softmax(logits), labels, settings)

    return joined(settings, jax.lax.map(losses, cut_in_chunks(settings, x_MBTD, labels_MBT)))


def _forward(
    x_MBTD: jax.Array, unembedding: Unembedding, labels_MBT: jax.Array, settings: LossSettings
) -> tuple[jax.Array, tuple[Any, ...]]:
    losses_MBT = label_losses(x_MBTD, unembedding, labels_MBT, settings)
    return losses_MBT, (x_MBTD, unembedding, labels_MBT)


def _backward(settings: LossSettings, saved: tuple[Any, ...], d_MBT: jax.Array) -> tuple[Any, ...]:
    x_MBTD, unembedding, labels_MBT = saved

    def each(logits: jax.Array, labels: jax.Array, d: jax.Array) -> OfTokens:
        soft = softmax(logits)
        loss = token_loss(logits, soft, labels, settings)
        return OfTokens(loss, d, token_gradient(soft, labels, d, settings))

    arrays = labels_MBT, d_MBT
    return *sum_and_gradients(each, x_MBTD, unembedding, arrays, settings)[1], None


label_losses.defvjp(_forward, _backward)
