"""Runs a command from its words to an exit status; whatever stops it becomes one line.

A command is a module with

    main = entry_point(parser, run)

where `parser()` makes a `Parser` and `run(args)` does the work and returns the exit status.
"""

import argparse
import functools
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

from jaxneox.console import hints
from jaxneox.console.extras import EXTRAS, missing
from jaxneox.console.parser import Parser
from jaxneox.console.say import tell
from jaxneox.console.text import message, tolerate_any_text
from jaxneox.errors import UserError

TRACE = "JAXNEOX_TRACE"
"""An environment variable that shows where unexpected errors come from."""

LEFT_BEHIND = re.compile(r"Event loop is closed$|Encountered error while reading array index")
"""The errors of Orbax's coroutines that were left behind when another one failed."""

Run = Callable[[argparse.Namespace], int | None]


class Main(Protocol):
    """A command's `main`."""

    def __call__(self, argv: Sequence[str] | None = None) -> NoReturn: ...


class Ending(NamedTuple):
    """How a command ended: its exit status, and the last line on stderr if there is one."""

    status: int
    line: str | None = None


def entry_point(
    parser: Callable[[], Parser],
    run: Run,
    *,
    interrupted: str = "interrupted; what was not finished was taken away",
    foreign: bool = False,
) -> Main:
    """Make the `main(argv)` of a command.

    Args:
        parser: makes the command's parser.
        run: the work; returns the exit status, where None is 0.
        interrupted: what Ctrl-C says.
        foreign: whether the command reads whatever others have written, so that an exception that
            nobody foresaw is most likely a damaged file, and becomes one line as well.
    """

    def main(argv: Sequence[str] | None = None) -> NoReturn:
        hush()
        tolerate_any_text()
        show_warnings_as_messages()
        words = list(sys.argv[1:] if argv is None else argv)

        def work() -> int | None:
            arguments = parser()
            hints.remember([*arguments.name.split(), *words])
            return run(arguments.parse_args(words))

        end(ending(work, interrupted, foreign))

    return main


def ending(work: Callable[[], int | None], interrupted: str, foreign: bool = False) -> Ending:
    """Do the work, and turn what stops it into a status and a line.

    Exceptions that are neither a user's mistake nor the system's are raised, unless `foreign`.
    """
    try:
        status = work() or 0
        sys.stdout.flush()
        return Ending(status)
    except UserError as error:
        return Ending(error.status, f"error: {error}")
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Ending(128 + signal.SIGPIPE)
    except OSError as error:
        return Ending(2, f"error: {error.filename or 'a file'}: {error.strerror or error}")
    except MemoryError as error:
        return Ending(2, f"error: this needs more memory than there is ({error or 'MemoryError'})")
    except KeyboardInterrupt:
        return Ending(128 + signal.SIGINT, interrupted)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        return Ending(2, f"error: {missing(error.name, 'this')}")
    except Exception as error:
        if not foreign or os.environ.get(TRACE):
            raise
        what = f"{type(error).__name__}: {str(error)[:300]}"
        return Ending(2, f"error: a damaged file, or a fault of this program ({what}); {TRACE}=1 "
                         "shows where")  # fmt: skip


def end(outcome: Ending) -> NoReturn:
    """Print the last line, if there is one, and exit."""
    if outcome.line is not None:
        tell(outcome.line)
    sys.exit(outcome.status)


class MessageFormatter(logging.Formatter):
    """Shows what the library logs as a command's other messages are shown."""

    def format(self, record: logging.LogRecord) -> str:
        return message(super().format(record))


def show_warnings_as_messages() -> None:
    """Let warnings that the library logs, which may quote a file, be one visible line each."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(MessageFormatter())


@functools.cache
def hush() -> None:
    """Silence what Orbax and TensorStore print of a failure that they also raise.

    Each write that fails after the first one is told to an event loop that Orbax has closed, and
    Python reports those that had not begun when it collects them, as it does reads that were under
    way when another one failed.
    """
    warnings.filterwarnings(
        "ignore", "coroutine '(async_serialize_from|_read_array_index)", RuntimeWarning
    )
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    report = sys.unraisablehook

    def report_others(unraisable: Any) -> None:
        if not LEFT_BEHIND.match(str(unraisable.exc_value)):
            report(unraisable)

    sys.unraisablehook = report_others
