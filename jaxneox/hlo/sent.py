"""What a compiled step sends between devices: by kind and mesh axis, how often, how much."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from jaxneox.hlo.collectives import Collective, collectives
from jaxneox.hlo.groups import Groups

NOTES = {
    "derived": "~ from the loops' conditions, as the compiler does not state these loops' lengths",
    "least": "≥ at least: in a loop whose length is not in the program, counted as one pass",
}
SIGNS = {"known": "", "derived": "~", "least": "≥"}


@dataclass(frozen=True)
class Row:
    """All collectives of one kind along the same axes.

    Attributes:
        axes: the mesh axes along which devices send, as in "dp" or "dp+tp"; of a permute all
            along which any source and target differ. In words where the groups are no product
            of axes.
        count: in one run of the program; of a choice of branches those that send the most.
        bytes: the payload on one device in one run: the result's size, or the operand's of a
            reduce-scatter; of a permute that of a device that takes part. What crosses the
            wires is another number: a ring of n sends 2 (n - 1) / n of an all-reduce's.
        length: see Collective.
        in_layer: of the count, how many once round the loop over layers.
        layer_bytes: the payload of these.
    """

    kind: str
    axes: str
    count: int
    bytes: int
    length: str
    in_layer: int = 0
    layer_bytes: int = 0


def rows(text: str, sizes: Mapping[str, int], layers: int | None = None) -> list[Row]:
    """Tabulate what a program sends, the most bytes first.

    Collectives of a device with itself are left out: nothing is sent.

    Args:
        text: the program's.
        sizes: of its mesh.
        layers: how often the loops over layers go round, by which they are known.
    """
    by_kind: dict[tuple[str, str], list[Collective]] = {}
    for one in collectives(text):
        axes = axes_of(one.groups, tuple(sizes.items()), one.kind == "collective-permute")
        if axes:
            by_kind.setdefault((one.kind, axes), []).append(one)
    inside = [one.loops for ones in by_kind.values() for one in ones if one.loops[-1:] == (layers,)]
    deepest = max(map(len, inside), default=0)  # a loop around these may be as long
    in_layer = {
        key: [one for one in ones if one.loops[-1:] == (layers,) and len(one.loops) == deepest]
        for key, ones in by_kind.items()
    }
    together = [
        Row(
            kind,
            axes,
            sum(one.count for one in ones),
            sum(one.bytes * one.count for one in ones),
            max((one.length for one in ones), key=list(SIGNS).index),
            len(in_layer[kind, axes]),
            sum(one.bytes for one in in_layer[kind, axes]),
        )
        for (kind, axes), ones in by_kind.items()
    ]
    return sorted(together, key=lambda row: (-row.bytes, row.kind, row.axes))


def together(listed: Iterable[Row], renamed: Callable[[str], str]) -> list[Row]:
    """Make one row of all that have the same axes once they are renamed, the most bytes first."""
    found: dict[tuple[str, str], Row] = {}
    for row in listed:
        axes = renamed(row.axes)
        if (same := found.get((row.kind, axes))) is None:
            found[row.kind, axes] = replace(row, axes=axes)
            continue
        found[row.kind, axes] = replace(
            same,
            count=same.count + row.count,
            bytes=same.bytes + row.bytes,
            length=max(same.length, row.length, key=list(SIGNS).index),
            in_layer=same.in_layer + row.in_layer,
            layer_bytes=same.layer_bytes + row.layer_bytes,
        )
    return sorted(found.values(), key=lambda row: (-row.bytes, row.kind, row.axes))


def row_of(one: Collective, axes: str) -> Row:
    """Make the row of a single collective, done once."""
    return Row(one.kind, axes, 1, one.bytes, one.length)


@cache
def axes_of(groups: Groups | str, sizes: tuple[tuple[str, int], ...], pairs: bool = False) -> str:
    """Find the mesh axes along which the groups lie; "" if each device is alone in its group.

    Args:
        groups: device numbers as positions in the mesh's own order (`mesh.devices.flat`), which
            is how a compiled program numbers them, whatever the devices' ids; () for all.
        sizes: the mesh.
        pairs: `groups` are a permute's pairs (source, target).
    """
    if isinstance(groups, str):
        return f"groups not understood: {groups}"
    long = [axis for axis, size in sizes if size > 1]
    if pairs:
        return "+".join(axis for axis in long if axis in _differing(groups, sizes))
    if not groups:
        return "+".join(long)
    if all(len(group) == 1 for group in groups):
        return ""
    expected = {frozenset(group) for group in groups}
    for count in range(1, len(long) + 1):
        for axes in itertools.combinations(long, count):
            if _along(axes, sizes) == expected:
                return "+".join(axes)
    width = "/".join(map(str, sorted({len(group) for group in groups})))
    first = ",".join(map(str, groups[0][:8])) + (",…" if len(groups[0]) > 8 else "")
    return f"no product of axes: groups of {width} such as {first}"


def _along(axes: Iterable[str], sizes: tuple[tuple[str, int], ...]) -> set[frozenset[int]]:
    """List the groups of devices that differ along these axes alone."""
    shape = [size for _, size in sizes]
    inner = [i for i, (axis, _) in enumerate(sizes) if axis in axes]
    outer = [i for i in range(len(shape)) if i not in inner]
    numbers = np.arange(math.prod(shape)).reshape(shape).transpose(outer + inner)
    return {
        frozenset(row) for row in numbers.reshape(-1, math.prod(shape[i] for i in inner)).tolist()
    }


def _differing(pairs: Groups, sizes: tuple[tuple[str, int], ...]) -> set[str]:
    shape = [size for _, size in sizes]
    ends = zip(*pairs, strict=True)
    coordinates = [np.unravel_index(np.array(devices, int), shape) for devices in ends]
    if not coordinates:
        return set()
    return {
        axis
        for (axis, _), source, target in zip(sizes, *coordinates, strict=True)
        if (source != target).any()
    }


def table(listed: list[Row]) -> str:
    """Format the rows, with a note on those whose count is not sure."""
    if not listed:
        return "  none: no device sends anything to another"
    head = ("kind", "axes", "times a step", "MiB per device")
    cells = [
        (row.kind, row.axes, f"{SIGNS[row.length]}{row.count:,}", f"{row.bytes / 2**20:,.3f}")
        for row in listed
    ]
    widths = [max(len(row[i]) for row in [head, *cells]) for i in range(len(head))]
    lines = [
        f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
        for a, b, c, d in [head, *cells]
    ]
    lengths = {row.length for row in listed}
    return "\n".join([*lines, *(f"  {NOTES[name]}" for name in NOTES if name in lengths)])
