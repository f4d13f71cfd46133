"""A bound on how many tokens of a row an expert takes in training."""
# B batch, T length, k choices of a token, E experts; N choices of a row

import math

import jax
import jax.numpy as jnp
import numpy as np


def capacity(factor: float, length: int, top_k: int, experts: int) -> int:
    """Return how many tokens of a row an expert takes: `factor` times its even share, rounded up.

    It is of a row, and not of a device's tokens, so that the function is the same on every mesh.
    """
    return min(length, math.ceil(factor * length * top_k / experts))


def within(
    choices_BTk: jax.Array, experts: int, most: int, order: np.ndarray | None = None
) -> jax.Array:
    """Put the number `experts` in place of choices whose expert is full.

    First choices come before second ones, and among those of a rank earlier tokens before later.

    Args:
        choices_BTk: int32, whole rows on each device.
        experts: how many there are.
        most: how many tokens of a row each takes.
        order: the positions in the order in which the tokens are laid out, if not their own.
    """
    length, k = choices_BTk.shape[1:]
    rank_Tk = np.arange(k)[None] * length + (np.arange(length) if order is None else order)[:, None]
    by_rank_N, back_N = np.argsort(rank_Tk.reshape(-1)), rank_Tk.reshape(-1)

    def row(choices_N: jax.Array) -> jax.Array:
        ranked_N = choices_N[by_rank_N]
        sorted_N = jnp.argsort(ranked_N, stable=True)
        first_N = jnp.searchsorted(ranked_N[sorted_N], ranked_N[sorted_N], side="left")
        number_N = (
            jnp.zeros_like(ranked_N)
            .at[sorted_N]
            .set(jnp.arange(ranked_N.shape[0], dtype=ranked_N.dtype) - first_N)
        )
        return jnp.where(number_N < most, ranked_N, experts)[back_N]

    rows_BN = choices_BTk.reshape(choices_BTk.shape[0], -1)
    return jax.vmap(row)(rows_BN).reshape(choices_BTk.shape)
