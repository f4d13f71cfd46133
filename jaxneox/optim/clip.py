"""Clipping by the norm of the gradient, also by a norm that leaves parameters out."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P


def clip_by_norm(most: float, leaves_out: Mapping[str, int]) -> optax.GradientTransformation:
    """Scale the gradient down to a norm of at most `most`.

    The norm of DeepSpeed without ZeRO counts what all ranks have copies of in the pipeline's first
    stage alone (deepspeed `runtime/utils.py`, `clip_grad_norm_`: its rank is one among all stages).

    The factor is one for all: a quotient for each number would be a pass of its own over the
    gradient.

    Args:
        most: the largest norm.
        leaves_out: parameters of which the norm counts only the layers before the given one; of a
            parameter that is in no layer it counts nothing.
    """

    def clip(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        counted = (_squares(name, u, leaves_out.get(name)) for name, u in updates.items())
        norm = jnp.sqrt(sum(counted, jnp.zeros((), jnp.float32)))
        factor = jnp.minimum(1.0, most / norm)
        return {name: u * factor for name, u in updates.items()}

    return optax.stateless(clip)


def _squares(name: str, u: jax.Array, first: int | None) -> jax.Array:
    """Sum the squares of a parameter; with `first`, only those of the layers before it."""
    if first is None:
        return jnp.sum(jnp.square(u))
    if not name.startswith("layers."):
        return jnp.zeros((), u.dtype)
    squares_L = jnp.sum(jnp.square(u), axis=tuple(range(1, u.ndim)))
    if not jax.sharding.get_abstract_mesh().empty:
        squares_L = jax.reshard(squares_L, P())
    return jnp.sum(squares_L[:first])
