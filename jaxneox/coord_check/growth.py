"""How activations grow with the width: the exponents, and whether all are flat."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxneox.coord_check.measure import Coordinates

MOST, LEAST = 0.25, -0.4
"""The exponents between which an activation is flat.

Without muP what an update changes grows with the width to the power of 0.5 or more. With it the
exponent is 0 in the limit of wide models; the widths of a check are below it, where measured
exponents are between -0.25 and 0. Logits begin at a size of 1 / sqrt(width), which fades.
"""


class Growth(NamedTuple):
    """An activation at all widths.

    Attributes:
        name: of the activation.
        first: its mean absolute size at the start, by width.
        moved: how far it has moved after each step, by step and width.
        exponent: of the width, by which the last of them grows; 0 is flat.
    """

    name: str
    first: tuple[float, ...]
    moved: tuple[tuple[float, ...], ...]
    exponent: float

    @property
    def is_flat(self) -> bool:
        return LEAST <= self.exponent <= MOST


def growths(measured: Mapping[int, Coordinates]) -> list[Growth]:
    """Return how each activation grows, of the coordinates by width."""
    widths, all_coordinates = list(measured), list(measured.values())
    found = []
    for name in all_coordinates[0].sizes:
        first = tuple(one.sizes[name][0] for one in all_coordinates)
        moved = tuple(zip(*(one.moved[name][1:] for one in all_coordinates), strict=True))
        found.append(Growth(name, first, moved, exponent(widths, moved[-1])))
    return found


def exponent(widths: Sequence[int], sizes: Sequence[float]) -> float:
    """Return the slope of the line through log(size) by log(width), by least squares.

    It is infinite if a size is not finite, as after a training that has diverged.
    """
    logs = np.log(np.maximum(sizes, np.finfo(float).tiny))
    if not np.isfinite(logs).all():
        return float("inf")
    return float(np.polyfit(np.log(widths), logs, 1)[0])
