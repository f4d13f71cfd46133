"""Sinkhorn's balancing of a router's scores, by which training assigns tokens to experts evenly."""
# G groups of tokens that are balanced together, N tokens of a group, E experts

from collections.abc import Callable

import jax
import jax.numpy as jnp

Turn = Callable[[jax.Array], tuple[jax.Array, jax.Array]]

TURNS = 3
TOLERANCE = 1e-4
TINY = 1e-8


def sinkhorn(scores_GNE: jax.Array) -> jax.Array:
    """Scale exp(scores) so that tokens have equal sums, and experts nearly equal ones.

    The formula is GPT-NeoX's (megatron/model/moe/router.py): the factors of tokens and experts are
    computed in turns, three times, or until those of experts change by less than 1e-4 on average.

    Args:
        scores_GNE: the router's scores, float32.

    Returns:
        float32 [G, N, E], through which no gradient goes.
    """
    scores_GNE = jax.lax.stop_gradient(scores_GNE)
    tokens, experts = scores_GNE.shape[1:]
    c_GNE = jnp.exp(scores_GNE)

    def turn(d1_GE: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the next factors of tokens and experts."""
        of_tokens_GN = jnp.sum(d1_GE[:, None] * c_GNE, axis=2)
        d0_GN = (1 / tokens) / (of_tokens_GN + TINY)
        of_experts_GE = jnp.sum(d0_GN[..., None] * c_GNE, axis=1)
        return d0_GN, (1 / experts) / (of_experts_GE + TINY)

    d1_GE = 1 / (experts * jnp.sum(c_GNE, axis=1))
    d0_GN, d1_GE, change_G = _after(turn, d1_GE)
    for _ in range(TURNS - 1):
        moves = change_G >= TOLERANCE
        next_GN, next_GE, next_G = _after(turn, d1_GE)
        d0_GN = jnp.where(moves[:, None], next_GN, d0_GN)
        d1_GE = jnp.where(moves[:, None], next_GE, d1_GE)
        change_G = jnp.where(moves, next_G, change_G)
    return d1_GE[:, None] * c_GNE * d0_GN[..., None]


def _after(turn: Turn, d1_GE: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Take a turn, and say by how much the experts' factors changed."""
    d0_GN, next_GE = turn(d1_GE)
    return d0_GN, next_GE, jnp.mean(jnp.abs(next_GE - d1_GE), axis=1)
