"""A bound on how many tokens of a row an expert takes in training."""
# B batch, T length, k choices of a token, E experts; N choices of a row

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxneox.model.layout import Axes, Layout, on_devices


def capacity(factor: float, length: int, top_k: int, experts: int) -> int:
    """Return how many tokens of a row an expert takes: `factor` times its even share, rounded up.

    It is of a row, and not of a device's tokens, so that the function is the same on every mesh.
    """
    return min(length, math.ceil(factor * length * top_k / experts))


def within(choices_BTk: jax.Array, experts: int, most: int, layout: Layout) -> jax.Array:
    """Put the number `experts` in place of choices whose expert is full.

    First choices come before second ones, and among those of a rank earlier tokens before later.

    Args:
        choices_BTk: int32.
        experts: how many there are.
        most: how many tokens of a row each takes.
        layout: says in what order the tokens of a row are.

    Returns:
        int32 [B, T, k], whole rows on each device.
    """
    length, k = choices_BTk.shape[1:]
    rank_Tk = np.arange(k)[None] * length + layout.order(length)[:, None]
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

    def local(choices_BTk: jax.Array) -> tuple[jax.Array]:
        rows_BN = choices_BTk.reshape(choices_BTk.shape[0], -1)
        return (jax.vmap(row)(rows_BN).reshape(choices_BTk.shape),)

    whole: Axes = ("batch", None, None)
    choices_BTk = jax.reshard(choices_BTk, layout.activation(*whole))
    return on_devices(local, (whole,), (whole,), layout)(choices_BTk)[0]
