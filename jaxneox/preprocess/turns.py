"""The tokens of a rendered conversation that are learned: those of one role's turns."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import tokenizers

from jaxneox.templates.jinja import Rendered, Span

SPACE = "Ġ"
"""A space in the tokens of a byte-level vocabulary; it is trimmed from their offsets."""


class Conversation:
    """A conversation, and which of its turns are learned: those of a role, or the last of them.

    Turns before number `first` are not learned, whosever they are.
    """

    def __init__(
        self, turns: list[dict[str, Any]], role: str, only_last: bool, first: int = 0
    ) -> None:
        self.turns, self.role = turns, role
        last = len(turns) - 1
        self.learned = [
            turn["role"] == role and i >= first and (i == last or not only_last)
            for i, turn in enumerate(turns)
        ]

    def prompted(self, count: int) -> bool:
        """Tell whether the role speaks after the first `count` turns."""
        return count < len(self.turns) and self.turns[count]["role"] == self.role


def are_beginnings(parts: Sequence[Sequence[int] | str]) -> bool:
    """Tell whether each of them begins the next."""
    return all(after[: len(before)] == before for before, after in itertools.pairwise(parts))


def spans_of_growth(parts: Sequence[Sequence[int] | str], learned: Sequence[bool]) -> list[Span]:
    """Find the learned turns in the last part; each part begins the next."""
    starts = [0, *map(len, parts)]
    bounds = itertools.pairwise(starts)
    return [span for span, is_learned in zip(bounds, learned, strict=True) if is_learned]


def spans_of_marks(rendered: Rendered, conversation: Conversation) -> list[Span] | None:
    """Find the learned turns by `{% generation %}`; None if it does not mark each turn."""
    roles = [turn["role"] for turn in conversation.turns]
    turns = [
        is_learned
        for name, is_learned in zip(roles, conversation.learned, strict=True)
        if name == conversation.role
    ]
    if conversation.role != "assistant" or len(turns) != len(rendered.generated):
        return None
    return [span for span, is_learned in zip(rendered.generated, turns, strict=True) if is_learned]


def reached(encoding: tokenizers.Encoding, text: str, spans: Sequence[Span]) -> list[bool]:
    """Mark the tokens that reach into one of the spans, by a character at least."""
    result = []
    for start, end in extents(encoding, text):
        here = max(end, start + 1)  # a token without characters is where it stands
        result.append(any(start < last and here > first for first, last in spans))
    return result


def extents(encoding: tokenizers.Encoding, text: str) -> Iterator[Span]:
    """Return the characters of each token, with the spaces that byte-level offsets leave out."""
    for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
        before = len(token) - len(token.lstrip(SPACE))
        after = len(token) - len(token.rstrip(SPACE)) if before < len(token) else 0
        trimmed = start == end or not text[start].isspace()
        cut = start == end or not text[end - 1].isspace()
        yield max(0, start - before * trimmed), min(len(text), end + after * cut)
