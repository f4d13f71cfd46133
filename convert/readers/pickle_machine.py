"""The stack and the memo that a pickle's opcodes work on, with their limits.

Python's own unpickler hashes whatever a file gives as a key, and the hash of 60 tuples, each twice
in the next, takes longer than anybody waits. Here a key is looked at before it is hashed.
"""

from collections.abc import Callable, Iterable
from typing import Any

OBJECTS = 8 << 20  # that a pickle may make, or remember: about a gigabyte of them
LONGEST_KEY = 8  # elements of a tuple that is a key
LARGEST_KEY = 1 << 60  # beyond, different whole numbers have the same hash


class Inert:
    """A stand-in for a file's object whose class is not needed here."""

    state: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args


class Machine:
    """The stack machine that a pickle is a program for.

    Args:
        content: the pickle.
        find: maps a module and a name to what stands for it.
        persistent: maps a persistent identifier to what stands for it.
    """

    def __init__(
        self,
        content: bytes,
        find: Callable[[str, str], Any],
        persistent: Callable[[Any], Any],
    ) -> None:
        self.content, self.find, self.persistent = content, find, persistent
        self.at, self.made = 0, 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks that lie under a mark each
        self.memo: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        start, self.at = self.at, self.at + count
        if self.at > len(self.content):
            raise ValueError("its pickle ends too early")
        return self.content[start : self.at]

    def count(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> bytes:
        end = self.content.find(b"\n", self.at)
        if end < 0:
            raise ValueError("its pickle ends too early")
        start, self.at = self.at, end + 1
        return self.content[start:end]

    def marked(self) -> list[Any]:
        """Take what lies above the last mark."""
        above, self.stack = self.stack, self.below.pop()
        return above

    def make(self, value: Any) -> None:
        """Push a container or an object."""
        self._account()
        self.stack.append(value)

    def mark(self) -> None:
        self._account()
        self.below.append(self.stack)
        self.stack = []

    def remember(self, index: int) -> None:
        """Put the top of the stack into the memo; far indices may all have the same hash."""
        if not 0 <= index <= len(self.content):
            raise ValueError(f"a memo at {index}")
        self._account()
        self.memo[index] = self.stack[-1]

    def _account(self) -> None:
        self.made += 1
        if self.made > OBJECTS:
            raise ValueError(f"a pickle of more than {OBJECTS} objects")


def refuse_key(key: Any) -> None:
    """Refuse a key or an element of a set before it is hashed, unless it is plain and small.

    Raises:
        ValueError: it is neither text, a number, None, an object nor a short tuple of those.
    """
    parts = key if type(key) is tuple else (key,)
    if len(parts) > LONGEST_KEY:
        raise ValueError(f"a key that is a tuple of {len(parts)}, expected text or a number")
    for part in parts:
        if type(part) is int and abs(part) >= LARGEST_KEY:
            raise ValueError("a key that is a number beyond 60 bits")
        if type(part) not in (str, int, bool, type(None), Inert):
            raise ValueError(f"a key that holds a {type(part).__name__}, expected text or a number")


def refuse_keys(keys: Iterable[Any]) -> None:
    for key in keys:
        refuse_key(key)
