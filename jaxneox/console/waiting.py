"""No wait without a line: what takes long says so, and what is quick says nothing."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from jaxneox.console.say import tell
from jaxneox.errors import UserError

PATIENCE = "JAXNEOX_PATIENCE"
"""An environment variable: seconds after which a user should know what is being waited for."""


def patience() -> float:
    """Return the seconds that may pass without a line."""
    text = os.environ.get(PATIENCE, "2")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise UserError(f"{PATIENCE}: found {text!r}, expected a number of seconds")
    return seconds


@contextlib.contextmanager
def waiting(what: str, show: Callable[[str], object] = tell) -> Iterator[None]:
    """Say what is being done if the block takes longer than two seconds, or JAXNEOX_PATIENCE.

    Args:
        what: in the form "compiling the step".
        show: prints the line, from a thread of its own.

    Raises:
        UserError: JAXNEOX_PATIENCE is no number of seconds.
    """
    timer = threading.Timer(patience(), show, [f"{what} …"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
