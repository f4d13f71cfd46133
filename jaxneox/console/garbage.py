"""Python's collector of cyclic garbage, which finds next to nothing while a program starts.

Imports and tracing make some million objects that stay, and each pass looks at all of them again: a
fifth of a start. See https://docs.python.org/3/library/gc.html#gc.freeze.
"""

import gc

_starting = False


def starting() -> None:
    """Collect nothing until `started` is called, which a command that calls this must do."""
    global _starting
    _starting = gc.isenabled()
    gc.disable()


def started() -> None:
    """Collect again, without what there is by now; nothing happens unless `starting` was called."""
    global _starting
    if _starting:
        _starting = False
        gc.freeze()
        gc.enable()
