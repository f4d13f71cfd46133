"""Python's collector of cyclic garbage, which finds next to nothing while a program starts.

Imports and tracing make some million objects that stay, and each pass looks at all of them again: a
fifth of a start.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_resting = False


@contextmanager
def resting() -> Iterator[None]:
    """Collect nothing inside until `started` is called, and as before from the end on."""
    global _resting
    if not gc.isenabled():  # it is the caller's
        yield
        return
    _resting = True
    gc.disable()
    try:
        yield
    finally:
        started()


def started() -> None:
    """Collect again; nothing happens outside of `resting`."""
    global _resting
    if _resting:
        _resting = False
        gc.enable()
