"""Figures as tables for people and as JSON for programs."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from jaxneox.console.text import visible
from jaxneox.data.atomic import atomic_file
from jaxneox.evaluate.perplexity import Measured, difference


@dataclass(frozen=True)
class Scores:
    """The scores that lm-eval computed.

    Attributes:
        results: its own dictionary, as it would be written.
        each: a task's metric -> the figure of each document, for comparisons.
    """

    results: dict[str, Any]
    each: dict[tuple[str, str], list[float]]


@dataclass(frozen=True)
class Report:
    """All figures of one checkpoint."""

    checkpoint: str
    files: list[Measured]
    tasks: Scores | None = None
    base: bool = False  # the reports after it are held against it, not against the first

    def figures(self) -> dict[str, Any]:
        record: dict[str, Any] = {"checkpoint": self.checkpoint}
        if self.files:
            record["perplexity"] = [file.figures() for file in self.files]
        if self.tasks:
            record |= self.tasks.results
        return record


def show(reports: Sequence[Report]) -> None:
    screen = console()
    for number, file in enumerate(reports[0].files):
        screen.print(_perplexities(file.corpus.name, reports, number))
    if reports[0].tasks:
        screen.print(_scores(reports))


def console() -> Console:
    """Return where tables are printed; a file has room for the widest one."""
    screen = Console(highlight=False)
    if not screen.is_terminal:
        screen.width = 400
    return screen


def _perplexities(name: str, reports: Sequence[Report], number: int) -> Table:
    first = reports[0].files[number]
    several = len(reports) > 1
    words = first.corpus.words is not None and not several
    tokens = f"{first.corpus.tokens:,} tokens in {len(first.losses):,} windows"
    table = plain(f"{Path(name).name}: {tokens}")
    table.add_column("checkpoint", overflow="fold")
    heads = ["loss", "perplexity", "95 %"]
    heads += ["of a byte", "of a word"] if words else []
    for head in [*heads, *(["difference", "of the loss", "±"] if several else [])]:
        table.add_column(head, justify="right", no_wrap=True)
    for report in reports:
        it = report.files[number]
        first = it if report.base else first
        cells = [f"{it.loss:.6f}", f"{it.perplexity:.4f}", _interval(it)]
        if words:
            cells += [_number(it.per(units)) for units in (it.corpus.bytes, it.corpus.words)]
        if several and it is not first:
            apart, error = difference(it, first)
            cells += [f"{it.perplexity - first.perplexity:+.4f}", f"{apart:+.2e}", f"{error:.1e}"]
        table.add_row(visible(report.checkpoint), *cells)
    return table


def plain(title: str) -> Table:
    return Table(title=visible(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _scores(reports: Sequence[Report]) -> Table:
    """Make one row a metric.

    Each other checkpoint has its figure and its difference to the first.
    """
    table = plain("tasks")
    for head in ("task", "metric"):
        table.add_column(head)
    for number, report in enumerate(reports):
        table.add_column(visible(Path(report.checkpoint).name), justify="right", overflow="fold")
        table.add_column("±", justify="right")
        if number:
            table.add_column("difference", justify="right")
            table.add_column("±", justify="right")
    first = reports[0].tasks
    assert first is not None
    for task, metrics in first.results["results"].items():
        for metric in (m for m in metrics if "," in m and "_stderr" not in m):
            row: list[str] = []
            for number, report in enumerate(reports):
                row += _figure(report, task, metric)
                row += _apart(reports[0], report, task, metric) if number else []
            table.add_row(task, metric.removesuffix(",none"), *row)
    return table


def _figure(report: Report, task: str, metric: str) -> list[str]:
    assert report.tasks is not None
    metrics = report.tasks.results["results"][task]
    name, _, kind = metric.partition(",")
    error = metrics.get(f"{name}_stderr,{kind}")
    return [_number(metrics[metric]), _number(error) if isinstance(error, float) else ""]


def _apart(first: Report, other: Report, task: str, metric: str) -> list[str]:
    """Compare two checkpoints' figures.

    The standard error is that of the difference of the documents' mean figures (log-probabilities
    for perplexities).
    """
    assert first.tasks is not None and other.tasks is not None
    values = [scores.results["results"][task][metric] for scores in (other.tasks, first.tasks)]
    key = task, metric.partition(",")[0]
    one, two = other.tasks.each.get(key, []), first.tasks.each.get(key, [])
    change = f"{values[0] - values[1]:+.4g}"
    if len(one) != len(two) or len(one) < 2:
        return [change, ""]
    apart = [a - b for a, b in zip(one, two, strict=True)]
    mean = sum(apart) / len(apart)
    spread = sum((x - mean) ** 2 for x in apart) / (len(apart) - 1)
    return [change, f"{math.sqrt(spread / len(apart)):.2g}"]


def _interval(it: Measured) -> str:
    return "" if math.isnan(it.error) else "{:.4g} - {:.4g}".format(*it.interval)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if abs(value) < 1e5 else f"{value:.5g}"


def write(name: str, reports: Sequence[Report]) -> None:
    """Write the figures of the one checkpoint, or of all under `compared`."""
    figures = [report.figures() for report in reports]
    record = figures[0] | ({"compared": figures[1:]} if len(figures) > 1 else {})
    with atomic_file(Path(name)) as file:
        file.write(json.dumps(record, indent=1, default=str).encode() + b"\n")
