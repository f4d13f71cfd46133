"""Calls into a tokenizer's library, whose failures become one line and which end in time.

Tokenizers come with the checkpoints of strangers. The libraries that read them are written in Rust
and C++: they raise bare exceptions, or panic, which Python sees as a `PanicException` that is no
`Exception` and which also prints a trace to the standard error. The regular expressions of a
tokenizer.json are the file's own, and one may be made to take years for a line of text.
"""

import contextlib
import functools
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO, TypeVar

from jaxneox.errors import UserError

T = TypeVar("T")

SECONDS = 60.0  # for a call, and as much again for each million characters
PANIC = "PanicException"
LONGEST_REASON = 300  # characters of a library's message that are shown


class TokenizerFault(UserError):
    """A tokenizer cannot be opened, or cannot encode or decode what it was given."""


@contextlib.contextmanager
def faults(what: str) -> Iterator[None]:
    """Turn what a tokenizer's library raises, panics included, into a TokenizerFault.

    Args:
        what: the beginning of the message: which file, and what it was asked for.

    Raises:
        TokenizerFault: `what`, and the library's reason.
    """
    with _traces_kept() as forget:
        try:
            yield
        except UserError:
            raise
        except BaseException as error:
            panicked = type(error).__name__ == PANIC
            if not panicked and not isinstance(error, Exception):
                raise
            if panicked:
                forget()
            raise TokenizerFault(f"{what} ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """Say in one line why something failed; exceptions such as MemoryError have no text."""
    text = " ".join(str(error).split())[:LONGEST_REASON]
    if isinstance(error, MemoryError):
        return f"not enough memory: {text}" if text else "not enough memory"
    if isinstance(error, RecursionError):
        return "nested too deep"
    return text or type(error).__name__


def within(call: Callable[[], T], characters: int = 0) -> T:
    """Make a call that gives up Python's lock, and do not wait for it longer than a limit.

    A call that is too slow cannot be stopped from outside: it goes on beside until the process
    ends.

    Args:
        call: what to do.
        characters: of text that it is given.

    Raises:
        TimeoutError: it takes longer than SECONDS, and as much again for each million characters.
    """
    seconds = SECONDS * (1 + characters / 1e6)
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(
            f"it takes longer than {seconds:.0f} seconds for {characters:,} characters; a regular "
            "expression of the file may never end"
        )
    if errors:
        raise errors[0]
    return results[0]


_here = threading.local()


@contextlib.contextmanager
def _traces_kept() -> Iterator[Callable[[], object]]:
    """Hold back what is written to the standard error, and write it at the end.

    Yields a function that forgets what was held back so far. Only the main thread holds back: in a
    server the standard error is everybody's.
    """
    outer: Callable[[], object] | None = getattr(_here, "forget", None)
    if outer is not None or threading.current_thread() is not threading.main_thread():
        yield outer or (lambda: None)
        return
    with contextlib.ExitStack() as stack:
        try:
            before = os.dup(2)
            stack.callback(os.close, before)
            held = stack.enter_context(_unnamed_file())
            os.dup2(held.fileno(), 2)
        except OSError:  # no standard error, or no room to hold it
            yield lambda: None
            return
        _here.forget = functools.partial(held.truncate, 0)
        try:
            yield _here.forget
        finally:
            _here.forget = None
            os.dup2(before, 2)
            held.seek(0)
            if text := held.read():
                os.write(2, text.lstrip(b"\0"))


def _unnamed_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
