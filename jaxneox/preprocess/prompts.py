"""The prompt of a pair of answers, which both sides may repeat, or have only as their beginning."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxneox.errors import UserError
from jaxneox.preprocess.chat import Turns, is_conversation

SIDES = CHOSEN, REJECTED = "chosen", "rejected"


class DividedPair(NamedTuple):
    """A prompt and the two answers to it.

    Attributes:
        prompt: a text or turns.
        sides: likewise, without the prompt.
        unnamed: all are texts, of which nothing says whose they are.
    """

    prompt: Any
    sides: list[Any]
    unnamed: bool = False


def divided(prompt: Any, sides: Sequence[Any], role: str, where: str) -> DividedPair:
    """Find the prompt of a pair.

    Args:
        prompt: a text or turns; None if what both sides begin with is the prompt.
        sides: the chosen and the rejected text, or conversation.
        role: whose turns are answers.
        where: the file and line.

    Raises:
        UserError: the sides are of different forms, or have different prompts.
    """
    chats = [is_conversation(side) for side in sides]
    if isinstance(sides[0], str) != isinstance(sides[1], str):
        raise UserError(
            f'{where}: one of "chosen" and "rejected" is a text and the other is not; give both '
            "as texts, or both as lists of turns"
        )
    usable = prompt is None or isinstance(prompt, str) or is_conversation(prompt) or prompt == []
    if all(chats) and usable:
        found = _of_turns(prompt, list(sides), where)
        for key, side in zip(SIDES, found.sides, strict=True):
            if side[0]["role"] != role:
                raise UserError(
                    f'{where}: the prompts of a pair must be the same, but after it "{key}" goes '
                    f"on with a turn of {side[0]['role']!r}, expected {role!r}"
                )
        return found
    if prompt is None and all(isinstance(side, str) for side in sides):
        return _of_texts(sides[0], sides[1], where)
    return DividedPair([] if prompt is None else prompt, list(sides))


def _of_turns(prompt: Any, sides: list[Turns], where: str) -> DividedPair:
    """Divide two conversations, which may repeat the prompt, as those of UltraFeedback do."""
    turns: Any = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    turns = turns if prompt else []
    shared = _shared_count(*sides)
    if turns:
        repeated = [_contains(side, turns) for side in sides]
        if not any(repeated):
            return DividedPair(turns, sides)
        if not _contains(sides[0][:shared], turns):
            raise UserError(
                f'{where}: the prompt is not what both "chosen" and "rejected" begin with, though '
                "one of them has it; give the same prompt in both, or in neither"
            )
    count = min(shared, *(len(side) - 1 for side in sides))
    if not count:
        raise _nothing_shared(where, "turn")
    return DividedPair(sides[0][:count], [side[count:] for side in sides])


def _of_texts(chosen: str, rejected: str, where: str) -> DividedPair:
    """Divide two texts before the last space, or end of line, that both have at the same place."""
    shared = _shared_count(chosen, rejected)
    for i in reversed(range(1, shared)):
        if chosen[i].isspace() and chosen[i:].strip() and rejected[i:].strip():
            return DividedPair(chosen[:i], [chosen[i:], rejected[i:]], unnamed=True)
    raise _nothing_shared(where, "word")


def _nothing_shared(where: str, unit: str) -> UserError:
    return UserError(
        f'{where}: "chosen" and "rejected" have no first {unit} in common, which would be their '
        'prompt, and an answer after it; give the prompt as "prompt"'
    )


def _shared_count(one: Sequence[Any], other: Sequence[Any]) -> int:
    same = (left == right for left, right in zip(one, other, strict=False))
    return sum(1 for _ in itertools.takewhile(bool, same))


def _contains(side: Turns, turns: Turns) -> bool:
    """Tell whether these turns are somewhere in a conversation, such as after a system's."""
    width = len(turns)
    return any(side[i : i + width] == turns for i in range(len(side) - width + 1))
