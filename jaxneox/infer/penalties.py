"""Logits that are raised or lowered token by token: OpenAI's penalties and logit_bias.

The penalties count the tokens of the answer alone, as OpenAI and vLLM do; a prompt's cost nothing.
Source: OpenAI's API reference of `frequency_penalty`, `presence_penalty` and `logit_bias`.
"""
# B rows, V tokens that may be chosen, K tokens with a bias

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxneox.errors import UserError

MOST_BIASES = 1024
"""The most tokens that may have a bias in one answer."""
PENALTY, BIAS = 2.0, 100.0
"""The largest of each, of either sign."""

Biases = tuple[tuple[int, float], ...]


def check_penalty(name: str, value: float) -> None:
    if not -PENALTY <= value <= PENALTY:
        raise UserError(f"{name} {value}: expected a number from -{PENALTY:g} to {PENALTY:g}")


def check_biases(biases: Biases) -> None:
    if len(biases) > MOST_BIASES:
        raise UserError(f"logit_bias: {len(biases)} tokens, expected {MOST_BIASES} at most")
    for token, bias in biases:
        if not (math.isfinite(bias) and -BIAS <= bias <= BIAS):
            raise UserError(
                f"logit_bias of token {token}: {bias}, expected a number from -{BIAS:g} to {BIAS:g}"
            )
        if not 0 <= token < 2**31:
            raise UserError(f"logit_bias: {token}, expected the number of a token")


class Penalties(NamedTuple):
    """The settings by which each row's logits are changed, as arrays."""

    presence_B: jax.Array
    frequency_B: jax.Array
    biased_BK: jax.Array  # tokens, filled up with numbers that are no tokens
    bias_BK: jax.Array


def penalty_arrays(
    presence: Sequence[float], frequency: Sequence[float], biases: Sequence[Biases]
) -> Penalties:
    """Lay out the settings of every row."""
    biased_BK = np.full((len(biases), MOST_BIASES), np.iinfo(np.int32).max, np.int32)
    bias_BK = np.zeros((len(biases), MOST_BIASES), np.float32)
    for row, pairs in enumerate(biases):
        for place, (token, bias) in enumerate(pairs):
            biased_BK[row, place], bias_BK[row, place] = token, bias
    return Penalties(
        jnp.array(presence, jnp.float32),
        jnp.array(frequency, jnp.float32),
        jnp.array(biased_BK),
        jnp.array(bias_BK),
    )


def penalize(logits_BV: jax.Array, penalties: Penalties, counts_BV: jax.Array) -> jax.Array:
    """Lower the logits of tokens that the answer has, and add the biases.

    Args:
        logits_BV: float32.
        penalties: of each row.
        counts_BV: how often each token is in each row's answer.
    """
    presence_B, frequency_B, biased_BK, bias_BK = penalties

    def biased() -> jax.Array:
        rows_B1 = jnp.arange(logits_BV.shape[0])[:, None]
        return logits_BV.at[rows_B1, biased_BK].add(bias_BK, mode="drop")

    def lowered(logits_BV: jax.Array) -> jax.Array:
        there_BV = counts_BV > 0
        return logits_BV - frequency_B[:, None] * counts_BV - presence_B[:, None] * there_BV

    logits_BV = jax.lax.cond(jnp.any(bias_BK != 0), biased, lambda: logits_BV)
    some = jnp.any((presence_B != 0) | (frequency_B != 0))
    return jax.lax.cond(some, lowered, lambda x: x, logits_BV)


def counted(counts_BV: jax.Array, token_B: jax.Array) -> jax.Array:
    """Count one token more of each row."""
    return counts_BV.at[jnp.arange(len(token_B)), token_B].add(1)
