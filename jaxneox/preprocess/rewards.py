"""Rewards of documents: numbers of the input's rows.

NeoX's preprocess_data_with_chat_template.py stores them as int32, and loses what is behind the
point. Here they are kept whole: see `NUMBER`.
"""

from typing import Any, Literal

import numpy as np

from jaxneox.errors import UserError, cut

NUMBER = np.dtype(np.float64)
"""The type of rewards while their dataset grows. In the end it is int32, as NeoX's, if all of them
are whole numbers that it can hold, else float32: `stored_type`."""

LARGEST = float(np.finfo(np.float32).max)

RewardRule = Literal["number", "sign", "verdict"]
"""How a reward is read: as a number, true being 1 and false 0 (NeoX's --reward-key); as 1 if it is
true or above 0, else -1 (its --binary-reward); or as a verdict, which is 1 for true, -1 for false
and a number as it is (the `label` of rows for KTO)."""


def reward_of(value: Any, key: str, where: str, rule: RewardRule = "number") -> float:
    """Return the reward of a document.

    Args:
        value: what a line of JSON, or a row of a table, holds.
        key: that of the reward.
        where: the file and line, for errors.
        rule: how it is read.

    Raises:
        UserError: there is none, or it is no number that float32 can hold.
    """
    if not isinstance(value, dict) or value.get(key) is None:
        raise UserError(f'{where}: no "{key}", expected a reward: a number, true or false')
    return as_reward(value[key], f'{where}: "{key}"', rule)


def as_reward(given: Any, what: str, rule: RewardRule = "number") -> float:
    """Return a reward of any row as a number; `what` is where it is, and its key."""
    if isinstance(given, bool):
        return 1.0 if given else 0.0 if rule == "number" else -1.0
    if not isinstance(given, int | float):
        raise UserError(f"{what} is {cut(repr(given))}, expected a number, true or false")
    if not abs(given) <= LARGEST:  # nor is NaN
        raise UserError(
            f"{what} is {cut(str(given))}, expected a number of at most {LARGEST:.2g} either way"
        )
    if rule == "sign":
        return 1.0 if given > 0 else -1.0
    return float(given)


def stored_type(rewards: np.ndarray[Any, np.dtype[np.float64]]) -> np.dtype[Any]:
    """Return the type that holds these rewards: int32, or float32 if one is not whole."""
    limits = np.iinfo(np.int32)
    fits = (rewards == np.trunc(rewards)) & (rewards >= limits.min) & (rewards <= limits.max)
    return np.dtype(np.int32 if fits.all() else np.float32)
