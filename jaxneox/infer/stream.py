"""Text while it is being generated: what is certain of it, and where it ends."""

from collections.abc import Callable, Sequence

from jaxneox.errors import UserError

UNFINISHED = "�"  # what a tokenizer shows for the bytes of a character that is not whole


class TextStream:
    """The text of an answer, token by token.

    A token's text depends on its neighbours (a character of several bytes, a space that a
    tokenizer leaves out at the start), so that new tokens are decoded after a few old ones. Text
    that may still become a stop string is held back.

    Attributes:
        text: all that is certain so far, without the stop string.
        ended: a stop string was met.
    """

    OVERLAP = 8
    """Tokens before the new ones that are decoded with them."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()):
        self._decode, self._stop = decode, stop
        self._ids: list[int] = []
        self._certain = 0  # tokens whose text is in `_seen`
        self._seen = ""
        self.text, self.ended = "", False

    def add(self, token: int) -> str:
        """-> the text that is certain now and was not before."""
        self._ids.append(token)
        new = self._news()
        if new.endswith(UNFINISHED):
            return ""
        self._certain = len(self._ids)
        return self._grow(new, held=True)

    def finish(self) -> str:
        """The answer is over: what was held back."""
        new = self._news()
        self._certain = len(self._ids)
        return self._grow(new, held=False)

    def _news(self) -> str:
        """The text of the tokens since the last certain one."""
        start = max(0, self._certain - self.OVERLAP)
        before = self._decode(self._ids[start : self._certain])
        return self._decode(self._ids[start:])[len(before) :]

    def _grow(self, new: str, held: bool) -> str:
        if self.ended:
            return ""
        self._seen += new
        found = [place for s in self._stop if (place := self._seen.find(s, len(self.text))) >= 0]
        self.ended = bool(found)
        back = self._hopeful() if held else 0
        end = min(found) if found else len(self._seen) - back
        known, self.text = self.text, self._seen[:end]
        return self.text[len(known) :]

    def _hopeful(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
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
    """Raises UserError for what is no text: bytes that Python could not read, or half of a
    surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name}: character {error.start} is no whole one; expected text in UTF-8"
        ) from error
