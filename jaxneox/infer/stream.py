"""Text while it is being generated: how much of it is certain, and where it ends."""

from collections.abc import Callable, Sequence

from jaxneox.errors import UserError

UNFINISHED = "�"  # what a tokenizer shows for the bytes of a character that is not whole


class TextStream:
    """The text of an answer, token by token.

    A token's text depends on its neighbours (a character of several bytes, a space that a tokenizer
    leaves out at the start), so that new tokens are decoded after a few old ones. Text that may
    still become a stop string is held back. A stop string that is complete within the first `least`
    tokens is text as any other, as in vLLM.

    Attributes:
        text: all that is certain so far, without the stop string.
        ended: whether a stop string was met.
    """

    OVERLAP = 8
    """Tokens before the new ones that are decoded with them."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = (), least: int = 0
    ):
        self._decode, self._stop, self._least = decode, stop, least
        self._free = 0  # characters of the first `least` tokens
        self._ids: list[int] = []
        self._certain = 0  # tokens whose text is in `_seen`
        self._seen = ""
        self.text, self.ended = "", False

    def add(self, token: int) -> str:
        """Add a token, and return the text that has become certain with it."""
        self._ids.append(token)
        new = self._new_text()
        if new.endswith(UNFINISHED):
            return ""
        self._certain = len(self._ids)
        return self._grow(new, held=True)

    def finish(self) -> str:
        """End the answer, and return the text that was held back."""
        new = self._new_text()
        self._certain = len(self._ids)
        return self._grow(new, held=False)

    def _new_text(self) -> str:
        """Decode the tokens since the last certain one."""
        start = max(0, self._certain - self.OVERLAP)
        before = self._decode(self._ids[start : self._certain])
        return self._decode(self._ids[start:])[len(before) :]

    def _grow(self, new: str, held: bool) -> str:
        if self.ended:
            return ""
        self._seen += new
        if len(self._ids) <= self._least:
            self._free = len(self._seen)
        starts = [at for s in self._stop if (at := self._seen.find(s, self._from(s))) >= 0]
        self.ended = bool(starts)
        back = self._maybe_stop() if held else 0
        end = min(starts) if starts else len(self._seen) - back
        known, self.text = self.text, self._seen[:end]
        return self.text[len(known) :]

    def _from(self, stop: str) -> int:
        """Return where a stop string may begin: in text that is not certain, and to end late."""
        return max(len(self.text), self._free - len(stop) + 1)

    def _maybe_stop(self) -> int:
        """Count the characters at the end that may be the beginning of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        tail = self._seen[-longest:] if longest else ""
        starts = (n for n in range(len(tail), 0, -1) if self._starts(tail[-n:]))
        return next(starts, 0)

    def _starts(self, part: str) -> bool:
        return any(stop.startswith(part) for stop in self._stop)


def check_stop(stop: Sequence[str]) -> tuple[str, ...]:
    if any(not s for s in stop):
        raise UserError("a stop string is empty: it would end every answer before its first token")
    for text in stop:
        check_text(text, "a stop string")
    return tuple(stop)


def check_text(text: str, name: str) -> None:
    """Refuse text with bytes that Python could not read, or half of a surrogate pair.

    Raises:
        UserError: names the character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name}: character {error.start} is no whole one; expected text in UTF-8"
        ) from error
