"""Blocks of a page in Markdown: sections, lists and tables."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jaxneox.console.text import markdown


def section(title: str, body: str) -> Iterator[str]:
    if body:
        yield f"## {title}"
        yield body


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def safe(rows: Iterable[Sequence[Any]]) -> Iterator[list[str]]:
    """Write rows of text from outside for Markdown."""
    for row in rows:
        yield [markdown(cell) for cell in row]


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a table of cells in Markdown; empty without rows."""
    lines = [head, ["---"] * len(head), *rows]
    if len(lines) == 2:
        return ""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in lines)
