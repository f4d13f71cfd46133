"""The lengths of documents as a picture: bins that double, in the terminal and as a PNG."""

import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.atomic import atomic_file

CHUNK = 1 << 20
WIDTH = 40  # characters of the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉█"


class Bin(NamedTuple):
    """The documents of `low` to `high` tokens, both included."""

    low: int
    high: int
    documents: int


def histogram(lengths: NDArray[np.integer]) -> list[Bin]:
    """Count bins [2^k, 2^(k+1)) from the first to the last with documents; none of length 0."""
    counts = np.zeros(65, np.int64)
    for at in range(0, len(lengths), CHUNK):
        _, digits = np.frexp(lengths[at : at + CHUNK])  # length < 2^digits, as binary digits
        counts += np.bincount(digits, minlength=65)
    used = np.flatnonzero(counts[1:]) + 1
    if not used.size:
        return []
    return [Bin(1 << k - 1, (1 << k) - 1, int(counts[k])) for k in range(used[0], used[-1] + 1)]


def draw(bins: Sequence[Bin]) -> list[str]:
    """Draw a line for each bin, its bar in proportion to the number of documents."""
    plain = "█".encode(sys.stdout.encoding or "ascii", errors="ignore") == b""
    most = max((one.documents for one in bins), default=1)
    width = max((len(f"{one.high:,}") for one in bins), default=0)
    lines = []
    for one in bins:
        eighths = -(-8 * WIDTH * one.documents // most)  # rounded up: what is there is seen
        full, rest = divmod(eighths, 8)
        bar = "#" * (full + (rest > 0)) if plain else "█" * full + EIGHTHS[rest].strip()
        figures = f"{bar} {one.documents:,}".strip()
        lines.append(f"{one.low:>{width},} to {one.high:>{width},}  {figures}")
    return lines


def draw_png(bins: Sequence[Bin], title: str, picture: pathlib.Path) -> None:
    """Draw the same as a PNG, the lengths on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=120, layout="constrained")
    lows = np.array([one.low for one in bins])
    axes.bar(lows, [one.documents for one in bins], width=lows, align="edge", edgecolor="white")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="tokens", ylabel="documents", title=title.replace("$", r"\$"))
    axes.grid(alpha=0.3, axis="y")
    with atomic_file(picture) as file:
        figure.savefig(file, format="png")
    pyplot.close(figure)
