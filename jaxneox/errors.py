"""The one exception that a user is meant to read, and how it lists what it found."""

from collections.abc import Iterable

LONGEST = 200  # characters of a value in an error
LONGEST_LINE = 6000  # and of a whole line
SLACK = 300  # more are let through, so that a line with `error:` before it is not cut once more


class UserError(Exception):
    """Wrong input from outside: one line that says what, where, what was expected and what to do.

    The command line prints it without a traceback and exits with `status`: 2, a user's mistake
    that another start repeats, unless a subclass says otherwise.
    """

    status = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(message))


def shortened(line: str) -> str:
    """Leave out the middle of a line that a file would have made endless.

    What was found and where is at its beginning, and what to do at its end.
    """
    if len(line) <= LONGEST_LINE + SLACK:
        return line
    begin, end = LONGEST_LINE * 2 // 3, LONGEST_LINE // 4
    left_out = len(line) - begin - end
    return f"{line[:begin]} [… {left_out:,} characters …] {line[-end:]}"


def cut(text: str) -> str:
    """Return a text, or its beginning if it is too long for an error's line."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def listed(items: Iterable[object], most: int = 8, separator: str = ", ") -> str:
    """Join names or reasons for an error's line, which has an end however many there are.

    Args:
        items: all of them; of each at most 200 characters are shown.
        most: how many are shown; the others are counted.
        separator: what stands between them.
    """
    shown: list[str] = []
    more = 0
    for item in items:
        if len(shown) < most:
            shown.append(cut(str(item)))
        else:
            more += 1
    end = f"{separator.rstrip(', ')} and {more} more" if more else ""
    return separator.join(shown) + end
