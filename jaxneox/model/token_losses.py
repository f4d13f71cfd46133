"""The loss of each token, made of operations that can be differentiated any number of times."""
# B batch, T length, D hidden, V padded vocabulary, n chunks of C positions

import jax
import jax.numpy as jnp

from jaxneox.model.layout import Layout
from jaxneox.model.loss import chunk_length, is_label, softmax
from jaxneox.model.unembedding import Unembedding, gathered, project


def token_losses(
    x_BTD: jax.Array, unembedding: Unembedding, labels_BT: jax.Array, layout: Layout
) -> jax.Array:
    """Compute the cross-entropy of each label, float32 [B, T] in nats.

    The logits of a chunk of positions are in memory at one time, also in a backward pass.

    Args:
        x_BTD: the last hidden states, after the final norm; the length is not split.
        unembedding: turns them into logits.
        labels_BT: int, the token that follows each position.
        layout: how arrays lie on the devices.
    """
    unembedding = gathered(unembedding, layout)
    batch, length = labels_BT.shape
    logits = batch * unembedding.weight.shape[-1] // layout.parts("batch", "vocab")
    chunk = chunk_length(length, logits)

    @jax.checkpoint
    def losses(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        x_BCD, labels_BC = part
        logits_BCV = project(x_BCD, unembedding, jnp.dtype("float32"))
        label_BC = jnp.sum(jnp.where(is_label(logits_BCV, labels_BC, layout), logits_BCV, 0), -1)
        return softmax(logits_BCV).log_total - label_BC

    def cut(x: jax.Array) -> jax.Array:
        """Cut [B, T, *] into [n, B, C, *]."""
        shape = (batch, length // chunk, chunk, *x.shape[2:])
        spec = layout.activation("batch", *(None,) * (len(shape) - 1))
        return jnp.moveaxis(jnp.reshape(x, shape, out_sharding=spec), 1, 0)

    losses_nBC = jax.lax.map(losses, (cut(x_BTD), cut(labels_BT)))
    whole = layout.activation("batch", None)
    return jnp.reshape(jnp.moveaxis(losses_nBC, 0, 1), (batch, length), out_sharding=whole)
