"""Rules that say where the numbers of a foreign tensor lie in ours, for import and for export.

Layouts are einops patterns. Their letters, and those of this package's shapes, are

    D hidden   F width of an MLP branch   V padded vocabulary   P positions   B buckets
    K key-value heads   G query heads for each   R = G + 2: a group's queries, key and value
    H head dimension    O one    S hidden, where it is split
    E experts   X width of one    U experts, as a router's copy has them all
    C channels of a mamba   M groups of them   N state   W width of the convolution
    Q rank of the step sizes   Z = Q + 2 N: what a group selects

Tensor parallelism splits K, F, V, S, E, C and M: in a shard they are a rank's share. An axis `1` of
theirs is not one of ours.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod

import numpy as np
from einops import rearrange
from numpy.lib.stride_tricks import as_strided

from jaxneox.config.schema import ModelConfig

Sizes = Mapping[str, int]
SPLIT = "KFVSECM"
EXPERT = "expert "


class Role(Enum):
    """A tensor's role for the ranks of a model-parallel run: how k of them become one."""

    SPLIT = "split"  # each rank holds a part: of the heads, the MLP's width or the vocabulary
    BIAS = "row-parallel bias"  # each rank adds a copy of its own, before or after the sum
    NORM = "norm"  # each rank applies a copy of its own to what feeds its shards
    COPY = "copy"  # each rank adds a copy of its own to its residual stream
    ROUTER = "router"  # each rank has a copy; which of them chooses experts depends on its kind


@dataclass(frozen=True)
class RulePart:
    """One part of a tensor: `leaf` is ours, without the layer.

    A leaf that joins what others keep apart has slots: q, k or v of attention, or an expert by its
    number, as `one_expert` names it, whose place in the leaf is along its first axis.
    """

    leaf: str
    pattern: str  # theirs -> ours; theirs may be but a part of a tensor's first axis
    slot: str = ""

    @property
    def sides(self) -> tuple[str, str]:
        theirs, ours = self.pattern.split(" -> ")
        return theirs, ours

    @property
    def axes(self) -> list[str]:
        """The axes of the leaf."""
        return self.sides[1].split()

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the shape of the foreign part."""
        return tuple(prod(sizes[a] for a in axis if a != "1") for axis in _groups(self.sides[0]))

    def whole(self, sizes: Sizes) -> tuple[int, ...]:
        """Return the shape of the whole leaf: with all its slots, and without the layer axis."""
        axes = self.axes
        if self._expert is not None:
            axes[0] = "E"
        elif self.slot:
            axes[axes.index("K") + 1] = "R"
        return tuple(sizes[axis] for axis in axes)

    def region(self, sizes: Sizes, rank: int) -> tuple[slice, ...]:
        """Return where a rank's part lies in the whole leaf; `sizes` are a rank's."""
        where = [slice(None)] * len(self.axes)
        for at, axis in enumerate(self.axes):
            if axis in SPLIT:
                where[at] = slice(rank * sizes[axis], (rank + 1) * sizes[axis])
        if self._expert is not None:
            where[0] = slice(self._expert, self._expert + 1)
        elif self.slot:
            G = sizes["G"]
            slots = {"q": slice(G), "k": slice(G, G + 1), "v": slice(G + 1, G + 2)}
            where[self.axes.index("K") + 1] = slots[self.slot]
        return tuple(where)

    @property
    def _expert(self) -> int | None:
        """The number of the expert whose slot it is, if it is one's."""
        return int(self.slot.removeprefix(EXPERT)) if self.slot.startswith(EXPERT) else None

    def _named(self, sizes: Sizes) -> dict[str, int]:
        return {axis: sizes[axis] for axis in self.sides[0] if axis in sizes}


@dataclass(frozen=True)
class Rule:
    """A rule for one foreign tensor; a tensor may stack several parts on its first axis."""

    theirs: str
    role: Role
    parts: tuple[RulePart, ...]
    norm: str = ""  # our name of the norm whose output this tensor multiplies, or is added to

    @property
    def leaves(self) -> set[str]:
        return {part.leaf for part in self.parts}

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        shapes = [part.shape(sizes) for part in self.parts]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def put(
        self, theirs: np.ndarray, leaves: Mapping[str, np.ndarray], sizes: Sizes, rank: int
    ) -> None:
        """Copy one rank's tensor into its places in our whole leaves."""
        for part, rows in zip(self.parts, self._rows(sizes), strict=True):
            into = leaves[part.leaf][part.region(sizes, rank)]
            copy(into, rearrange(theirs[rows], part.pattern, **part._named(sizes)))

    def get(self, leaves: Mapping[str, np.ndarray], sizes: Sizes, rank: int) -> np.ndarray:
        """Read one rank's tensor from our whole leaves: the inverse of `put`."""
        dtype = leaves[self.parts[0].leaf].dtype
        theirs = np.empty(self.shape(sizes), dtype)
        for part, rows in zip(self.parts, self._rows(sizes), strict=True):
            theirs_, ours = part.sides
            source = leaves[part.leaf][part.region(sizes, rank)]
            copy(theirs[rows], rearrange(source, f"{ours} -> {theirs_}", **part._named(sizes)))
        return theirs

    def _rows(self, sizes: Sizes) -> Iterator[slice]:
        start = 0
        for part in self.parts:
            rows = part.shape(sizes)[0]
            yield slice(start, start + rows)
            start += rows


def sizes_of(model: ModelConfig, ranks: int = 1) -> dict[str, int]:
    """Return the letters' sizes in one of `ranks` shards."""
    a = model.attention
    return {
        "D": model.hidden_size,
        "F": model.mlp.size // ranks,
        "V": model.vocab_size // ranks,
        "P": model.positions.max_positions,
        "B": model.positions.rpe_buckets,
        "K": a.kv_heads // ranks,
        "G": a.group,
        "R": a.group + 2,
        "H": a.head_dim,
        "O": 1,
        "S": model.hidden_size // ranks,
        **_sizes_of_experts(model, ranks),
        **_sizes_of_mamba(model, ranks),
    }


def _sizes_of_experts(model: ModelConfig, ranks: int) -> dict[str, int]:
    experts = model.experts
    if experts is None:
        return {}
    return {"E": experts.count // ranks, "U": experts.count, "X": experts.size}


def _sizes_of_mamba(model: ModelConfig, ranks: int) -> dict[str, int]:
    m = model.mamba
    if m is None:
        return {}
    split = {"C": m.channels // ranks, "M": m.groups // ranks}
    return split | {"N": m.state_size, "W": m.conv_width, "Q": m.step_rank, "Z": m.selection}


def rule(theirs: str, role: Role, *parts: Sequence[str], norm: str = "") -> Rule:
    return Rule(theirs, role, tuple(RulePart(*part) for part in parts), norm)


def one_expert(number: int) -> str:
    """Name the slot of one expert, whose part has the axis O in the place of the experts'."""
    return f"{EXPERT}{number}"


STRIP = 64


def copy(target: np.ndarray, source: np.ndarray) -> None:
    """Set `target[...] = source`, several times as fast as NumPy if one is a transposed layout.

    It copies a few columns at a time, so that the cache lines that are read and those that are
    written fit into the cache, and whole lines are written.
    """
    if target.dtype == source.dtype:  # bits are bits: NumPy is slow at types that are not its own
        bits = f"u{source.itemsize}"
        target, source = target.view(bits), source.view(bits)
    if source.ndim < 2 or source.strides[-1] == source.itemsize:
        target[...] = source
        return
    target, source = with_fewer_axes(target, source)
    for start in range(0, source.shape[-1], STRIP):
        strip = slice(start, start + STRIP)
        target[..., strip] = source[..., strip]


def with_fewer_axes(target: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """View two arrays of one shape with each run of axes that are evenly spaced in both as one."""
    axes = [(n, t, s) for n, t, s in zip(target.shape, target.strides, source.strides, strict=True)
            if n != 1]  # fmt: skip
    merged: list[tuple[int, int, int]] = []
    for n, t, s in axes:
        if merged and merged[-1][1:] == (n * t, n * s):
            n *= merged.pop()[0]
        merged.append((n, t, s))
    shape, ours, theirs = zip(*merged, strict=True) if merged else ((), (), ())
    return as_strided(target, shape, ours), as_strided(source, shape, theirs)


def _groups(side: str) -> Iterator[list[str]]:
    """Parse a side of a pattern: `(K G H) D` becomes [K, G, H], [D]."""
    inside: list[str] | None = None
    for token in side.replace("(", "( ").replace(")", " )").split():
        if token == "(":
            inside = []
        elif token == ")":
            yield inside or []
            inside = None
        elif inside is None:
            yield [token]
        else:
            inside.append(token)
