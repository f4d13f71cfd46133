"""A vocabulary that the devices do not divide, padded for them while they compute.

Parameters keep their true shape wherever they rest: checkpoints, gradients, moments and norms never
see the rows that are added here. No softmax does either, since their logits are -inf.
"""
# V vocabulary, D hidden

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxneox.model.layout import Layout


def added_rows(size: int, layout: Layout) -> int:
    """Count the rows that a vocabulary of this size lacks to be divided among the devices."""
    return -size % layout.parts("vocab")


def padded(weight: jax.Array, axes: Sequence[str], layout: Layout) -> jax.Array:
    """Add zeros at the end of the axis "vocab", as many as the devices need; else do nothing.

    Args:
        weight: a parameter in its true shape, laid out in any way.
        axes: its logical axes.
        layout: how arrays lie on the devices.
    """
    if "vocab" not in axes:
        return weight
    vocab = axes.index("vocab")
    more = added_rows(weight.shape[vocab], layout)
    if not more:
        return weight
    stored = jax.typeof(weight).sharding.spec.partitions
    whole = PartitionSpec(*(None if i == vocab else entry for i, entry in enumerate(stored)))
    added = [(0, more if i == vocab else 0) for i in range(weight.ndim)]
    return jnp.pad(jax.reshard(weight, whole), added)


def hide_added(bias_V: jax.Array | None, size: int, layout: Layout) -> jax.Array | None:
    """Return the bias of the logits with -inf for every row beyond the true `size`.

    Args:
        bias_V: float32, padded; None if the model has none.
        size: the true size of the vocabulary.
        layout: how arrays lie on the devices.
    """
    more = added_rows(size, layout)
    if not more:
        return bias_V
    spec = layout.activation("vocab")
    row_V = jax.lax.broadcasted_iota(jnp.int32, (size + more,), 0, out_sharding=spec)
    hidden_V = jnp.where(row_V < size, 0.0, -jnp.inf)
    return hidden_V if bias_V is None else bias_V + hidden_V
