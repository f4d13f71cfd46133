"""The matrix from the last hidden state to logits, as it is stored and as it is computed with."""
# D hidden, V padded vocabulary

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxneox.model.gather import gather
from jaxneox.model.layout import Layout, dual
from jaxneox.model.vocabulary import added_rows, padded

AXES = ("embed", "vocab")


class Unembedding(NamedTuple):
    """The last matrix, `logits = x @ weight + bias`. Its gradient has the same form.

    Devices may each store a part of the weight. Then `gathered` makes it whole where logits are
    made, so that it is not in memory before.
    """

    weight: jax.Array  # [D, V] in the compute dtype; while it is stored in its true size
    bias: jax.Array | None  # float32 [V]; few models have one


class UnembeddingRows(NamedTuple):
    """The last matrix with a row for each token, as embeddings have it.

    A tied embedding is the same array. A CPU multiplies a few hidden states by rows up to twice as
    fast as by columns.
    """

    weight: jax.Array  # [V, D] in the compute dtype
    bias: jax.Array | None  # float32 [V]

    @property
    def unembedding(self) -> Unembedding:
        return Unembedding(self.weight.T, self.bias)


def project(x: jax.Array, unembedding: Unembedding, dtype: jnp.dtype) -> jax.Array:
    """Compute logits [..., V] from [..., D]; a bias is added in their dtype.

    The unembedding's weight must be whole.
    """
    logits = jnp.einsum("...D,DV->...V", x, unembedding.weight).astype(dtype)
    if unembedding.bias is None:
        return logits
    return logits + jnp.expand_dims(unembedding.bias.astype(dtype), range(x.ndim - 1))


def is_whole(unembedding: Unembedding, layout: Layout) -> bool:
    """Tell whether the weight lies as it is computed with, and need not be gathered."""
    stored = jax.typeof(unembedding.weight).sharding.spec
    more = added_rows(unembedding.weight.shape[1], layout)
    return not more and stored.partitions == layout.weight(*AXES).partitions


def gathered(unembedding: Unembedding, layout: Layout, rows: tuple[str, ...] = ()) -> Unembedding:
    """Make the weight whole, with the vocabulary padded to what the devices divide.

    Args:
        unembedding: as it is stored, or whole already.
        layout: how arrays lie on the devices.
        rows: the axes of the hidden states over which its gradient is a sum. Where they are named,
            the gradient of a gathered weight has the type of a partial sum over the devices that
            split them, and each device is sent its part of the sum only.
    """
    return unembedding._replace(weight=_whole(unembedding.weight, layout, rows))


def scattered(
    gradient_DV: jax.Array, stored_DV: jax.Array, layout: Layout, rows: tuple[str, ...]
) -> jax.Array:
    """Add up the gradient of a gathered weight, of which each device keeps what it stores.

    Args:
        gradient_DV: a partial sum over the devices that split `rows`.
        stored_DV: the weight as `gathered` was given it.
        layout: how arrays lie on the devices.
        rows: the axes of the hidden states, as `gathered` was given them.

    Returns:
        The gradient in the dtype of the weight, rounded to it after it was added up.
    """
    exact = stored_DV.astype(gradient_DV.dtype)  # of which only the form is used
    whole, back = jax.vjp(lambda w: _whole(w, layout, rows), exact)
    (own,) = back(jax.reshard(gradient_DV, dual(whole)))
    return own.astype(stored_DV.dtype)


def _whole(weight: jax.Array, layout: Layout, rows: tuple[str, ...]) -> jax.Array:
    if added_rows(weight.shape[1], layout):
        rows = ()  # the rows that are added are cut off a whole sum
    return gather(padded(weight, AXES, layout), layout.weight(*AXES, rows=rows))
