"""At which character of a choice's text each token begins: `text_offset` of OpenAI's logprobs.

Token i has the characters `text[offset[i] : offset[i + 1]]`, the last one those up to the end; all
of them together are the text. Characters are Unicode code points. What a tokenizer changes (lower
case, composed accents, a space before the text) or leaves out belongs to the token for which it did
so, as the text has it. A character whose bytes several tokens share belongs to the last of them;
the others have none of it, and neither has a special token that is not in the text. Bytes of an
answer that are no character, which show as U+FFFD, come with the next token that has one.
"""

from collections.abc import Iterator, Sequence

from jaxneox.infer.stream import TextStream
from jaxneox.serve.served import Served

Span = tuple[int, int]


class Offsets:
    """The offsets of one choice, in the order of its tokens."""

    def __init__(self, served: Served, before: str = ""):
        """Begin at the answer.

        Args:
            served: the model.
            before: the echoed prompt.
        """
        self._stream, self._before = TextStream(served.decode), len(before)

    def next(self, token: int) -> int:
        """Return the offset of the answer's next token."""
        place = self._before + len(self._stream.text)
        self._stream.add(token)
        return place


def prompt_offsets(served: Served, text: str | None, tokens: Sequence[int], echo: str) -> list[int]:
    """Return the offsets of a prompt's tokens.

    Args:
        served: the model.
        text: the prompt, if it was given as text.
        tokens: its tokens.
        echo: the text that is returned for it.
    """
    if text is not None and served.tokenizer is not None:
        spans = served.tokenizer.spans(text)
        if len(spans) == len(tokens):
            return list(starts(spans))
    stream, places = Offsets(served), []
    for token in tokens:
        places.append(min(stream.next(token), len(echo)))
    return places


def starts(spans: Sequence[Span]) -> Iterator[int]:
    """Yield where each token begins, so that together they have all characters once.

    Args:
        spans: the characters from which each token was made, which may overlap or leave gaps.
    """
    made = [span for span in spans if span[0] < span[1]]
    next_begins = iter([*(begin for begin, _ in made[1:]), made[-1][1] if made else 0])
    at = 0
    for begin, end in spans:
        yield at
        if begin < end:
            at = max(at, min(end, next(next_begins)))
