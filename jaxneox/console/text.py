"""Text from files and from users as a terminal may show it."""

import contextlib
import io
import sys


def visible(text: str) -> str:
    r"""Write out what would steer a terminal, as `\x1b`; line ends and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """Put a space for each line end and for each character that would steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def tolerate_any_text() -> None:
    """Let a terminal that lacks a character show its number, and keep bytes that are not text.

    The latter come from the keyboard or a pipe, and whoever reads the standard input decides.
    """
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stdin, "surrogateescape")):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(io.UnsupportedOperation):  # it has been read from already
                stream.reconfigure(errors=errors)
