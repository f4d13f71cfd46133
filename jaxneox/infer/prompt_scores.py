"""Log-probabilities of the tokens of a prompt, each after those before it."""
# B rows, T positions, t a block of them, D model, V vocabulary, N most likely tokens

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxneox.model.layout import Axes, Layout, on_devices

BLOCK = 32
"""Positions whose logits are in memory at one time; it divides every padded length above it."""


class PromptScores(NamedTuple):
    """The scores of the token after each position; those after a prompt's last token mean nothing.

    Log-probabilities are those of the whole padded vocabulary, as the model was trained; the most
    likely tokens are among those that the tokenizer has.
    """

    logprob_BT: jax.Array
    top_BTN: jax.Array
    top_logprob_BTN: jax.Array


def score(
    layout: Layout,
    known: int | None,
    tops: int,
    logits: Callable[[jax.Array], jax.Array],
    x_BTD: jax.Array,
    tokens_BT: jax.Array,
) -> PromptScores:
    """Score the tokens of prompts.

    Args:
        layout: how arrays lie on the devices.
        known: how many tokens the tokenizer has, all unless given.
        tops: how many of the most likely tokens to return at each position.
        logits: makes float32 [B, t, V] of final hidden states [B, t, D].
        x_BTD: the final hidden states.
        tokens_BT: the prompts.
    """
    next_BT = jnp.roll(tokens_BT, -1, axis=1)
    block = min(BLOCK, x_BTD.shape[1])
    short = -x_BTD.shape[1] % block

    def cut(x: jax.Array) -> jax.Array:
        """Cut [B, T, …] into [blocks, B, t, …]."""
        x = jnp.pad(x, [(0, 0), (0, short), *[(0, 0)] * (x.ndim - 2)])
        return jnp.moveaxis(x.reshape(x.shape[0], -1, block, *x.shape[2:]), 1, 0)

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, : x_BTD.shape[1]]

    def one(part: tuple[jax.Array, jax.Array]) -> PromptScores:
        x_BtD, next_Bt = part
        row: Axes = ("batch", None)
        wide: Axes = ("batch", None, None)
        logits_BtV = jax.reshard(logits(x_BtD), layout.activation(*wide))
        next_Bt = jax.reshard(next_Bt, layout.activation(*row))  # reshaping may have lost it
        weigh = on_devices(local, (wide, row), (row, wide, wide), layout)
        return PromptScores(*weigh(logits_BtV, next_Bt))

    def local(logits_BtV: jax.Array, next_Bt: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        total_Bt = jax.nn.logsumexp(logits_BtV, axis=-1)
        logit_Bt = jnp.take_along_axis(logits_BtV, next_Bt[..., None], axis=-1)[..., 0]
        top_BtN, ids_BtN = jax.lax.top_k(logits_BtV[..., :known], tops)
        return logit_Bt - total_Bt, ids_BtN, top_BtN - total_Bt[..., None]

    x_BTD = jax.reshard(x_BTD, layout.activation("batch", None, "embed"))
    return jax.tree.map(join, jax.lax.map(one, (cut(x_BTD), cut(next_BT))))
