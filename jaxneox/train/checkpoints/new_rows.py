"""Rows for the tokens of a larger vocabulary, where training starts from a checkpoint's weights.

A new row is the mean of the others. Its logit is then the mean of theirs, so that the new tokens
together take no more of the probability than their share of the vocabulary (Hewitt 2021,
"Initializing New Word Embeddings for Pretrained Language Models").
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from jaxneox import checkpoint
from jaxneox.checkpoint import Location
from jaxneox.model import Params
from jaxneox.train.plan import TrainPlan

VOCABULARY = "vocab"  # the logical axis


def with_saved_rows(location: Location, params: Any, plan: TrainPlan, mesh: Mesh) -> Any:
    """Return the parameters' shapes with the rows that a checkpoint has, where it has fewer.

    Args:
        location: the checkpoint.
        params: shapes with shardings by name, as the run has them.
        plan: of the run.
        mesh: the devices.
    """
    saved = checkpoint.read_shapes(location)

    def described(name: str, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        axes, shape = plan.model.axes[name], saved.get(name, leaf.shape)
        if not _only_more_rows(axes, shape, leaf.shape):
            return leaf
        sharding = NamedSharding(mesh, plan.rules.parameter(name, axes, shape))
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

    return {name: described(name, leaf) for name, leaf in params.items()}


def with_new_rows(params: Params, expected: Any) -> Params:
    """Add rows to the parameters that have fewer than `expected`, which are shapes by name."""

    def grown(w: jax.Array, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if w.shape == leaf.shape:
            return w
        axis = next(i for i, size in enumerate(leaf.shape) if w.shape[i] != size)
        assert leaf.sharding is not None

        def add(w: jax.Array) -> jax.Array:
            mean = jnp.mean(w, axis, keepdims=True)
            more = leaf.shape[axis] - w.shape[axis]
            return jnp.concatenate([w, jnp.repeat(mean, more, axis)], axis)

        return jax.sharding.auto_axes(add, out_sharding=leaf.sharding.spec)(w)

    return {name: grown(w, expected[name]) for name, w in params.items()}


def _only_more_rows(axes: tuple[str, ...], saved: tuple[int, ...], here: tuple[int, ...]) -> bool:
    """Tell whether two shapes of a parameter are alike but for rows that are missing there."""
    if len(saved) != len(here):
        return False
    return all(
        there < size if axis == VOCABULARY else there == size
        for axis, there, size in zip(axes, saved, here, strict=True)
    )
