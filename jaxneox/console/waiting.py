"""No wait without a line: what takes long says so, and what is quick says nothing."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from jaxneox.console.say import tell

PATIENCE = "JAXNEOX_PATIENCE"
"""An environment variable: seconds after which a user should know what is being waited for."""


@contextlib.contextmanager
def waiting(what: str, show: Callable[[str], object] = tell) -> Iterator[None]:
    """Say what is being done if the block takes longer than two seconds, or JAXNEOX_PATIENCE.

    Args:
        what: in the form "compiling the step".
        show: prints the line, from a thread of its own.
    """
    timer = threading.Timer(float(os.environ.get(PATIENCE, "2")), show, [f"{what} …"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
