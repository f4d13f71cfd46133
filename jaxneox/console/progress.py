"""A bar on the terminal for long work; nothing if nobody is there to see it."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from jaxneox.console.text import visible
from jaxneox.console.waiting import waiting

LARGE = 256 << 20
"""How many bytes take long enough to read for a bar."""

Advance = Callable[[int], None]


@contextlib.contextmanager
def progress(label: str, total: int, unit: str = "bytes", at_least: int = 0) -> Iterator[Advance]:
    """Show a bar on the standard error while the block runs, if that is a terminal.

    In a log there is a line instead, if the block takes long.

    Args:
        label: what is being done; may come from a file.
        total: how much there is to do, in `unit`s.
        unit: what is counted: "bytes" are shown as kB, MB, GB.
        at_least: without a bar where there is less to do.

    Yields:
        `advance(amount)`, which may be called from any thread.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    counted = [DownloadColumn()] if unit == "bytes" else [MofNCompleteColumn(), TextColumn(unit)]
    left = (TextColumn("time left"), TimeRemainingColumn())
    # on the terminal itself: others' output may be held back while the bar is to be seen
    terminal = sys.__stderr__
    console = Console(file=terminal if terminal and terminal.isatty() else sys.stderr)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), *counted, *left,
        console=console, transient=True,
        disable=not console.is_terminal or total < at_least,
    )  # fmt: skip
    with bar if console.is_terminal else waiting(label):
        task = bar.add_task(escape(visible(label)), total=total)
        yield lambda amount: bar.advance(task, amount)
