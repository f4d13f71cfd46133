"""Text from files and from users, made safe for where it is shown."""

import contextlib
import html
import io
import re
import sys

from jaxneox.errors import shortened

STEERS_MARKDOWN = re.compile(r"[\\`*\[\]<>#~]|(?<![^\W_])_|_(?![^\W_])")
"""Characters that begin or end markup, which an underscore inside a word does not."""


def visible(text: str) -> str:
    r"""Write out what would steer a terminal, as `\x1b`; line ends and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """Put a space for each line end and for each character that would steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def message(text: str) -> str:
    """Make one visible line of a message, and cut it in the middle if it is endless."""
    return visible(shortened(re.sub(r"[\t\r\n]+", " ", text)))


def markdown(text: object) -> str:
    """Write text so that Markdown shows it as it is: no markup, no HTML, one line."""
    escaped = STEERS_MARKDOWN.sub(lambda found: "\\" + found[0], one_line(str(text)))
    return escaped.replace("&", "&amp;").replace("|", "&#124;")  # a table splits at any other


def markdown_code(text: object) -> str:
    """Write a short piece of code in Markdown; what a code span cannot hold becomes plain text."""
    line = one_line(str(text))
    return markdown(line) if "`" in line or "|" in line else f"`{line}`"


def markdown_block(text: str, language: str = "") -> str:
    """Write a block of code in Markdown, whatever it contains."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def as_html(text: object) -> str:
    """Write text so that HTML shows it as it is."""
    return html.escape(visible(str(text)))


def tolerate_any_text() -> None:
    """Let a terminal that lacks a character show its number, and keep bytes that are not text.

    The latter come from the keyboard or a pipe, and whoever reads the standard input decides.
    """
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stdin, "surrogateescape")):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(io.UnsupportedOperation):  # it has been read from already
                stream.reconfigure(errors=errors)
