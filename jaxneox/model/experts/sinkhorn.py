"""Sinkhorn's balancing of a router's scores, by which training assigns tokens to experts evenly."""
# G groups of tokens that are balanced together, of M rows of T tokens; E experts

import jax
import jax.numpy as jnp

TURNS = 3
TOLERANCE = 1e-4
TINY = 1e-8


def sinkhorn(scores_GMTE: jax.Array) -> jax.Array:
    """Scale exp(scores) so that tokens have equal sums, and experts nearly equal ones.

    The formula is GPT-NeoX's (megatron/model/moe/router.py): the factors of tokens and experts are
    computed in turns, three times, or until those of experts change by less than 1e-4 on average.

    Args:
        scores_GMTE: the router's scores, float32.

    Returns:
        float32 [G, M, T, E], through which no gradient goes.
    """
    scores_GMTE = jax.lax.stop_gradient(scores_GMTE)
    _, rows, length, experts = scores_GMTE.shape
    c_GMTE = jnp.exp(scores_GMTE)

    def turn(d1_GE: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the next factors of tokens and experts, and by how much the latter changed."""
        of_tokens_GMT = jnp.sum(d1_GE[:, None, None] * c_GMTE, axis=3)
        d0_GMT = (1 / (rows * length)) / (of_tokens_GMT + TINY)
        of_experts_GE = jnp.sum(d0_GMT[..., None] * c_GMTE, axis=(1, 2))
        next_GE = (1 / experts) / (of_experts_GE + TINY)
        return d0_GMT, next_GE, jnp.mean(jnp.abs(next_GE - d1_GE), axis=1)

    d0_GMT, d1_GE, change_G = turn(1 / (experts * jnp.sum(c_GMTE, axis=(1, 2))))
    for _ in range(TURNS - 1):
        moves_G = change_G >= TOLERANCE
        next_GMT, next_GE, next_G = turn(d1_GE)
        d0_GMT = jnp.where(moves_G[:, None, None], next_GMT, d0_GMT)
        d1_GE = jnp.where(moves_G[:, None], next_GE, d1_GE)
        change_G = jnp.where(moves_G, next_G, change_G)
    return d1_GE[:, None, None] * c_GMTE * d0_GMT[..., None]
