"""Where rows go when they are sorted by expert, sent to the experts' devices and brought back.

Rows of one device for one expert stay together as a segment, which only moves. So the place that
each row comes from is found from the starts of the segments, and nothing is sorted twice.
"""
# P devices that split the experts, E experts of all of them, L experts of one
# A rows of tokens and their choices, R rows that a device can receive

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sorted(NamedTuple):
    """A device's choices in the order of experts.

    Attributes:
        order_A: int32, which choice stands where; those without an expert are last.
        counts_E: int32, how many choose each expert.
    """

    order_A: jax.Array
    counts_E: jax.Array


def sort_choices(choices_A: jax.Array, experts: int) -> Sorted:
    """Sort choices by expert; the number `experts` stands for none."""
    order_A = jnp.argsort(choices_A, stable=True).astype(jnp.int32)
    counts_E = jnp.sum(one_hot(choices_A, experts), axis=0, dtype=jnp.int32)
    return Sorted(order_A, counts_E)


def one_hot(choices: jax.Array, experts: int) -> jax.Array:
    """Mark each choice among the experts: bool [*, E], all false for the number `experts`."""
    numbers = jnp.arange(experts, dtype=choices.dtype)
    return choices[..., None] == numbers.reshape((1,) * choices.ndim + (-1,))


def starts(counts: jax.Array) -> jax.Array:
    """Return where segments of these lengths begin if they follow each other, in one dimension."""
    return jnp.cumsum(counts) - counts


def origins(
    starts_s: jax.Array, counts_s: jax.Array, before_s: jax.Array, length: int, nothing: int
) -> jax.Array:
    """Tell for each place after a move where its row was before.

    Args:
        starts_s: where the segments start after the move, ascending.
        counts_s: their lengths.
        before_s: where they started before the move.
        length: how many places there are after it.
        nothing: what is returned for a place in no segment, a place that no row had before.

    Returns:
        int32 [length].
    """
    place = jnp.arange(length, dtype=jnp.int32)
    segment = jnp.searchsorted(starts_s, place, side="right") - 1
    within = place - starts_s[segment]
    return jnp.where(within < counts_s[segment], before_s[segment] + within, nothing)


def moved(rows: jax.Array, origins: jax.Array) -> jax.Array:
    """Take rows [*, X] from where they were; where there was none, zeros."""
    return rows.at[origins].get(mode="fill", fill_value=0)
