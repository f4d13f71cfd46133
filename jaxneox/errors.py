"""The one exception that a user is meant to read, and how it lists what it found."""

from collections.abc import Iterable


class UserError(Exception):
    """Wrong input from outside: one line that says what, where, what was expected and what to do.

    The command line prints it without a traceback and exits with `status`: 2, a user's mistake
    that another start repeats, unless a subclass says otherwise.
    """

    status = 2


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
            text = str(item)
            shown.append(text if len(text) <= 200 else f"{text[:200]}…")
        else:
            more += 1
    end = f"{separator.rstrip(', ')} and {more} more" if more else ""
    return separator.join(shown) + end
