"""What the commands share: arguments, a user's error as one line, progress in bytes.

A command is a module with

    main = command(parser, run)

    if __name__ == "__main__":
        main()

where `parser()` makes a `Parser` and `run(args)` returns the exit status.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, Protocol

from jaxneox.cli import hush, stop
from jaxneox.errors import UserError

TRACE = "JAXNEOX_TRACE"
"""An environment variable: unexpected errors are shown with where they came from."""

Advance = Callable[[int], None]


class Main(Protocol):
    def __call__(self, argv: Sequence[str] | None = None) -> NoReturn: ...


class Parser(argparse.ArgumentParser):
    """For `python -m convert.<name>`; the name is the `prog`."""

    def __init__(self, name: str, description: str) -> None:
        super().__init__(prog=f"python -m convert.{name}", description=description)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def command(
    parser: Callable[[], argparse.ArgumentParser], run: Callable[[argparse.Namespace], int]
) -> Main:
    """A `main(argv)` that exits with what `run` returns, or with 2 after a line on stderr."""

    def main(argv: Sequence[str] | None = None) -> NoReturn:
        hush()
        try:
            sys.exit(run(parser().parse_args(argv)))
        except UserError as error:
            stop(f"error: {plain(error)}", 2)
        except OSError as error:
            stop(f"error: {error.filename or 'a file'}: {error.strerror or error}", 2)
        except MemoryError as error:
            stop(f"error: this needs more memory than there is ({error or 'MemoryError'})", 2)
        except KeyboardInterrupt:
            stop("interrupted: what is not whole was taken away", 128 + signal.SIGINT)
        except Exception as error:
            if os.environ.get(TRACE):
                raise
            what = f"{type(error).__name__}: {plain(error)[:300]}"
            stop(f"error: a damaged file, or a fault of this program ({what}); {TRACE}=1 shows "
                 "where", 2)  # fmt: skip

    return main


def plain(error: BaseException) -> str:
    """One line without control characters: names in it may come from a file."""
    return "".join(c if c.isprintable() else " " for c in str(error))


@contextmanager
def progress(label: str, total: int, unit: str = "bytes") -> Iterator[Advance]:
    """Yields `advance(amount)`, from any thread; a bar where stdout is a terminal, else nothing."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TextColumn(unit))
    left = (TextColumn("time left"), TimeRemainingColumn())
    console = Console()
    bar = Progress(
        *columns, *left, console=console, transient=True, disable=not console.is_terminal
    )
    with bar:
        task = bar.add_task(label, total=total)
        yield lambda amount: bar.advance(task, amount)


def warn(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)
