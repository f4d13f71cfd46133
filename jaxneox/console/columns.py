"""Tables of text, in columns."""

from collections.abc import Sequence


def columns(table: Sequence[Sequence[str]], left: int, indent: str = "") -> list[str]:
    """Format a table, a line for each row.

    Args:
        table: rows of as many cells each.
        left: so many of the first columns are flush left, the others flush right.
        indent: before each line.
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        indent
        + "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
