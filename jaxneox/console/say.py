"""How commands print: whatever a file has written reaches the terminal as visible text."""

import sys
from collections.abc import Iterable

from jaxneox.console.text import message, visible


def say(*lines: str, end: str = "\n") -> None:
    """Print a command's results on the standard output, at once."""
    print(visible("\n".join(lines)), end=end, flush=True)


def tell(text: str) -> None:
    """Print one line on the standard error: what is going on, or what is wrong."""
    print(message(text), file=sys.stderr, flush=True)


def warn(lines: Iterable[str]) -> None:
    """Print each line on the standard error as a warning."""
    for line in lines:
        tell(f"warning: {line}")
