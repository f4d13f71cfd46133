"""The choice of the next token: greedy, or drawn from the distribution that NeoX's keys leave.

What is drawn depends on the request's seed and on the number of the token in its answer alone, on
no other row, so that an answer is the same alone and in company.
"""
# B rows, V padded vocabulary, E tokens that may end an answer

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError
from jaxneox.infer.penalties import (
    Biases,
    Penalties,
    check_biases,
    check_penalty,
    counted,
    penalize,
    penalty_arrays,
)
from jaxneox.model.layout import Axes, Layout, on_devices

MOST_ENDS = 64
"""The most tokens that may end an answer that has a least length."""


@dataclass(frozen=True)
class Sampling:
    """The choice of an answer's tokens: NeoX's keys, vLLM's `min_tokens`, OpenAI's penalties.

    The choice is greedy if temperature, top_k and top_p are all 0; a temperature of 0 with one of
    the others draws at temperature 1, as there.

    Attributes:
        temperature: divides the logits; 0 as above.
        top_k: tokens less likely than the k-th are not drawn; 0 for no such limit.
        top_p: tokens are drawn from the most likely ones, up to the one with which their
            probabilities exceed this sum; 0 for no such limit.
        seed: the same seed draws the same tokens.
        min_tokens: how many tokens are chosen before one of `ends` may be.
        ends: these tokens; they are needed only with `min_tokens`.
        presence_penalty: lowers the logits of all tokens that the answer has.
        frequency_penalty: lowers them as often as it has each.
        logit_bias: (token, what is added to its logit), for any tokens.
    """

    temperature: float = 0.0
    top_p: float = 0.0
    top_k: int = 0
    seed: int = 0
    min_tokens: int = 0
    ends: tuple[int, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Biases = ()

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature {self.temperature}: expected 0 (greedy) or more")
        if not 0 <= self.top_p <= 1:
            raise UserError(f"top_p {self.top_p}: expected a probability, 0 for no limit")
        if not 0 <= self.top_k < 2**31:
            raise UserError(f"top_k {self.top_k}: expected a number of tokens, 0 for no limit")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed {self.seed}: expected 0 to {2**32 - 1}")
        if not 0 <= self.min_tokens < 2**31:
            raise UserError(f"min_tokens {self.min_tokens}: expected a number of tokens")
        if len(self.ends) > MOST_ENDS:
            raise UserError(f"{len(self.ends)} ends of an answer: expected {MOST_ENDS} at most")
        check_penalty("presence_penalty", self.presence_penalty)
        check_penalty("frequency_penalty", self.frequency_penalty)
        check_biases(self.logit_bias)


class SamplingArrays(NamedTuple):
    """The sampling settings of every row, as arrays."""

    temperature_B: jax.Array
    top_p_B: jax.Array
    top_k_B: jax.Array
    seed_B: jax.Array
    min_tokens_B: jax.Array
    ends_BE: jax.Array  # filled up with numbers that are no tokens
    penalties: Penalties


def sampling_arrays(rows: list[Sampling]) -> SamplingArrays:
    def kept(number: float) -> float:
        """Keep a small number from becoming 0 in float32, where 0 means something else."""
        return max(number, 1e-30) if number else 0.0

    ends_BE = np.full((len(rows), MOST_ENDS), np.iinfo(np.int32).max, np.int32)
    for i, row in enumerate(rows):
        ends_BE[i, : len(row.ends)] = row.ends
    return SamplingArrays(
        jnp.array([kept(row.temperature) for row in rows], jnp.float32),
        jnp.array([kept(row.top_p) for row in rows], jnp.float32),
        jnp.array([row.top_k for row in rows], jnp.int32),
        jnp.array([row.seed for row in rows], jnp.uint32),
        jnp.array([row.min_tokens for row in rows], jnp.int32),
        jnp.array(ends_BE),
        penalty_arrays(
            [row.presence_penalty for row in rows],
            [row.frequency_penalty for row in rows],
            [row.logit_bias for row in rows],
        ),
    )


class Chosen(NamedTuple):
    """The next token of each row, on the device: `np.asarray` waits for it."""

    token_B: jax.Array
    logprob_B: jax.Array  # its log-probability as the model has it, before any sampling setting
    top_BN: jax.Array  # the N most likely tokens
    top_logprob_BN: jax.Array


def pick(
    layout: Layout,
    tops: int,
    logits_BV: jax.Array,
    settings: SamplingArrays,
    number_B: jax.Array,
    counts_BV: jax.Array,
) -> tuple[Chosen, jax.Array]:
    """Choose the next token of each row, and score it and the most likely ones.

    Args:
        layout: how arrays lie on the devices.
        tops: N, how many of the most likely tokens are returned.
        logits_BV: float32, of at least V tokens.
        settings: of each row.
        number_B: the number of the token in its answer.
        counts_BV: how often each token is in the answer; V is how many may be chosen.

    Returns:
        The tokens, and the counts with them.
    """
    V = counts_BV.shape[1]
    logits_BV = jax.reshard(logits_BV, layout.activation("batch", None))[:, :V]
    flat, tree = jax.tree.flatten(settings)

    def local(
        logits_BV: jax.Array, number_B: jax.Array, counts_BV: jax.Array, *flat: jax.Array
    ) -> tuple[jax.Array, ...]:
        settings = jax.tree.unflatten(tree, flat)
        penalized_BV = penalize(logits_BV, settings.penalties, counts_BV)
        token_B = choose(penalized_BV, settings, number_B)
        total_B = jax.nn.logsumexp(logits_BV, axis=-1)
        logprob_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)[:, 0] - total_B
        top_BN, ids_BN = jax.lax.top_k(logits_BV, tops)
        counts_BV = counted(counts_BV, token_B)
        return token_B, logprob_B, ids_BN, top_BN - total_B[:, None], counts_BV

    row: Axes = ("batch",)
    wide: Axes = ("batch", None)
    inputs = (wide, row, wide, *(wide if x.ndim == 2 else row for x in flat))
    run = on_devices(local, inputs, (row, row, wide, wide, wide), layout)
    *chosen, counts_BV = run(logits_BV, number_B, counts_BV, *flat)
    return Chosen(*chosen), counts_BV


def known_tokens(cfg: ModelConfig, known: int | None) -> int:
    """Return how many tokens may be chosen: those of the tokenizer, if the model has them all."""
    return min(cfg.vocab_size, known or cfg.vocab_size)


def choose(logits_BV: jax.Array, settings: SamplingArrays, number_B: jax.Array) -> jax.Array:
    """Choose one token of each row, int32 [B]; `number_B` counts the tokens of each answer."""
    logits_BV = withhold(logits_BV, settings, number_B)
    most_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
    best_B = first(logits_BV == most_B1)
    limited_B = (settings.top_k_B > 0) | (settings.top_p_B > 0)
    greedy_B = ~limited_B & (settings.temperature_B == 0)

    def drawn_B() -> jax.Array:
        temperature_B = jnp.where(settings.temperature_B == 0, 1, settings.temperature_B)
        scaled_BV = (logits_BV - most_B1) / temperature_B[:, None]
        kept_BV = jax.lax.cond(
            jnp.any(limited_B), lambda: limit(scaled_BV, settings), lambda: scaled_BV
        )
        return jnp.where(greedy_B, best_B, draw(kept_BV, settings.seed_B, number_B))

    return jax.lax.cond(jnp.all(greedy_B), lambda: best_B, drawn_B)


def withhold(logits_BV: jax.Array, settings: SamplingArrays, number_B: jax.Array) -> jax.Array:
    """Set the tokens that end an answer to -inf in rows that do not have their least length."""
    early_B = number_B < settings.min_tokens_B

    def without_ends() -> jax.Array:
        rows_B = jnp.arange(logits_BV.shape[0])
        ends_BE = jnp.where(early_B[:, None], settings.ends_BE, logits_BV.shape[1])
        return logits_BV.at[rows_B[:, None], ends_BE].set(-jnp.inf, mode="drop")

    return jax.lax.cond(jnp.any(early_B), without_ends, lambda: logits_BV)


def first(true_BV: jax.Array) -> jax.Array:
    """Find the first index that is true, V if there is none; faster than argmax on CPUs."""
    vocab = true_BV.shape[-1]
    tokens_BV = jax.lax.broadcasted_iota(jnp.int32, true_BV.shape, 1)
    return jnp.min(jnp.where(true_BV, tokens_BV, vocab), axis=-1)


def draw(logits_BV: jax.Array, seed_B: jax.Array, number_B: jax.Array) -> jax.Array:
    """Draw the token at which the sum of probabilities passes a uniform number.

    It takes one random number for each row, where Gumbel noise would take V.
    """

    def uniform(seed: jax.Array, number: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.key(seed), number))

    sum_BV = jnp.cumsum(jax.nn.softmax(logits_BV, axis=-1), axis=-1)
    mark_B1 = (jax.vmap(uniform)(seed_B, number_B) * sum_BV[:, -1])[:, None]
    possible_BV = logits_BV > -jnp.inf
    last_B = logits_BV.shape[-1] - 1 - first(possible_BV[:, ::-1])
    return jnp.minimum(first(possible_BV & (sum_BV > mark_B1)), last_B)


def limit(logits_BV: jax.Array, settings: SamplingArrays) -> jax.Array:
    """Apply NeoX's `filter_logits`: first top_k, then top_p of what that left; the rest is -inf.

    Nothing is sorted: a token stays while fewer than top_k tokens are more likely, and while those
    that are have at most top_p together. Tokens as likely as the last that stays, stay.
    """
    order_BV = _order(logits_BV)

    def fewer(mark_B: jax.Array) -> jax.Array:
        count_B = jnp.sum(order_BV > mark_B[:, None], axis=-1)
        return (count_B < settings.top_k_B) | (settings.top_k_B == 0)

    logits_BV = jnp.where(order_BV >= _least(fewer, order_BV)[:, None], logits_BV, -jnp.inf)
    mass_BV = jax.nn.softmax(logits_BV, axis=-1)

    def lighter(mark_B: jax.Array) -> jax.Array:
        mass_B = jnp.sum(jnp.where(order_BV > mark_B[:, None], mass_BV, 0), axis=-1)
        return (mass_B <= settings.top_p_B) | (settings.top_p_B == 0)

    return jnp.where(order_BV >= _least(lighter, order_BV)[:, None], logits_BV, -jnp.inf)


def _order(x: jax.Array) -> jax.Array:
    """Map float32 to uint32 that compare in the same order."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _least(holds: Callable[[jax.Array], jax.Array], order_BV: jax.Array) -> jax.Array:
    """Find the least uint32 [B] for which `holds` is true, as it is for all greater ones."""
    zero_B = jnp.zeros_like(order_BV[:, 0])

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low_B, high_B = bounds
        middle_B = low_B + (high_B - low_B) // 2
        true_B = holds(middle_B)
        return jnp.where(true_B, low_B, middle_B + 1), jnp.where(true_B, middle_B, high_B)

    return jax.lax.fori_loop(0, 32, halve, (zero_B, zero_B + jnp.uint32(2**32 - 1)))[1]
