"""Ends one process of several before the others: it says why, they are told, none waits.

The supervisor reads the exit statuses and must not import jax: only the functions here do.
"""

import os
import signal
import sys
import traceback
from typing import NoReturn

FAULT = 75  # EX_TEMPFAIL of sysexits.h: another process ended; a new start continues
NO_RESTART = {0, 2, 128 + signal.SIGINT}
"""After these no restart helps: success, a mistake of the user's, the user's Ctrl-C."""


def end_all(line: str, status: int, prefix: str | None = None) -> NoReturn:
    """End this process with a line of its own, and the others with one that quotes it."""
    from jaxneox.hosts.watch import running, say_and_exit

    watch = running()
    if watch is not None:
        watch.close()
        watch.stop_all(line, status)
    say_and_exit(line, status, prefix)


def crash() -> NoReturn:
    """End after an unexpected exception: print its traceback, unless another process is the cause.

    A collective breaks off in one process because another is gone. The watchdog knows which.
    """
    import jax

    from jaxneox.hosts import messages
    from jaxneox.hosts.watch import flush, running

    kind, error, trace = sys.exc_info()
    watch = running()
    lost = isinstance(error, jax.errors.JaxRuntimeError) or isinstance(
        error and (error.__cause__ or error.__context__), jax.errors.JaxRuntimeError
    )
    if watch is not None and lost:
        watch.trouble()  # as a rule it does not return
    for stream in (sys.stdout, sys.stderr):
        flush(stream)
    prefix = messages.prefix()
    text = "".join(traceback.format_exception(kind, error, trace))
    os.write(2, "".join(f"{prefix}{line}\n" for line in text.splitlines()).encode())
    end_all(f"error: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", 1)
