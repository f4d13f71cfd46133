"""What the commands share: a user's error as one line, progress in tokens, safe text."""

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from jaxneox.errors import UserError

LARGE = 256 << 20  # bytes from which on the progress is shown

Advance = Callable[[int], object]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def execute(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> NoReturn:
    """Exits with what the command returns, or with 2 after a line on stderr."""
    tolerate()
    try:
        args = parser.parse_args(argv)
        status = args.run(args)
        sys.stdout.flush()
        sys.exit(status)
    except UserError as error:
        stop(f"error: {error}", error.status)
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        stop(f"error: {error.filename or 'a file'}: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        stop("interrupted; what is not whole was taken away", 128 + signal.SIGINT)


def tolerate() -> None:
    """A terminal that lacks a character shows its number; bytes from the keyboard that are no text
    are left to who reads them."""
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stdin, "surrogateescape")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def check_output(name: str | Path | None) -> None:
    """What can be known of a file before the work that it is to keep."""
    if name is None:
        return
    folder = Path(name).parent
    if Path(name).is_dir():
        raise UserError(f"{name}: it is a folder; expected the name of a file to be written")
    if not os.access(folder, os.W_OK | os.X_OK):
        reason = "cannot be written to" if folder.is_dir() else "is no folder; make it first"
        raise UserError(f"{name} is to be written: {folder} {reason}")


def stop(line: str, status: int) -> NoReturn:
    print(visible(line.replace("\n", " ")), file=sys.stderr)
    sys.exit(status)


def visible(text: str) -> str:
    """The text with what would steer a terminal written out: it may come from any file."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


@contextlib.contextmanager
def progress(label: str, size: int) -> Iterator[Advance]:
    """Yields `advance(bytes)`; a bar where there is much to read and someone to see it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    console = Console(stderr=True)
    shown = console.is_terminal and size >= LARGE
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not shown
    ) as bar:
        task = bar.add_task(escape(visible(label)), total=size)
        yield lambda amount: bar.advance(task, amount)
