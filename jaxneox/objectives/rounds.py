"""Batches cut into rounds, which follow one another in a step."""
# A accumulation steps, R rounds, M micro-batches of one round, B sequences

from collections.abc import Callable
from typing import Any

import jax

from jaxneox.model import Layout
from jaxneox.objectives.objective import Batch


def rounds(tree: Any, layout: Layout) -> Any:
    """Cut [A, B, *] into [R, M, B, *]: M = 1 at a time, or all A at once for a pipeline."""

    def cut(x: jax.Array) -> jax.Array:
        return x[:, None] if layout.pipeline is None else x[None]

    return jax.tree.map(cut, tree)


def over_rounds(function: Callable[[Batch], Any], batch: Batch, layout: Layout) -> Any:
    """Apply a function to each round of a batch, without gradients.

    Args:
        function: takes fields [M, B, *], and returns arrays [M, B, *].
        batch: fields [A, B, *].
        layout: says what a round is.

    Returns:
        Arrays [A, B, *].
    """

    def joined(x: jax.Array) -> jax.Array:
        return x[:, 0] if layout.pipeline is None else x[0]

    results = jax.lax.map(function, rounds(jax.lax.stop_gradient(batch), layout))
    return jax.lax.stop_gradient(jax.tree.map(joined, results))
