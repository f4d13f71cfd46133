"""How the matrices of several modules there become those of one matrix here.

Queries, keys and values are three modules in most families and one matrix here, whose rank is the
sum of theirs: each has ranks of its own in A, and in B the numbers of its own columns beside zeros.
Modules with the same A share its ranks, as those that were one matrix here have it. All layers and
all matrices of a run of ours have one rank and one scale: ranks that are missing are zeros in A and
in B, which training leaves as they are.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import frexp, ldexp, sqrt

import numpy as np

from convert.peft.settings import PeftSettings
from convert.peft.tensors import Adapters, ModuleAdapter
from jaxneox.errors import UserError

Blocks = list[tuple[int, list[ModuleAdapter]]]
"""The first rank of each A, and the modules that have it."""

SAME = 1e-14
"""Two scales that differ by less are one, of which float64 rounded a root or a quotient."""


@dataclass(frozen=True)
class BlockLayout:
    """The one rank and scale of an adapter here, and where each module's matrices lie.

    Attributes:
        rank: of all matrices.
        alpha: scales by alpha / rank, or its root where `stabilized`.
        stabilized: see `LoraConfig`.
        blocks: by our matrix and the layer.
        scale: what all products are multiplied with here.
    """

    rank: int
    alpha: float
    stabilized: bool
    blocks: Mapping[tuple[str, int], Blocks]
    scale: float


def lay_out(adapters: Adapters, settings: PeftSettings, source: object) -> BlockLayout:
    """Choose rank and scale, and give each module's matrices their ranks.

    Raises:
        UserError: the scales of two modules differ by more than powers of two, so that no common
            one leaves the numbers of B exact.
    """
    groups: dict[tuple[str, int], list[ModuleAdapter]] = {}
    for adapter in adapters.values():
        groups.setdefault((adapter.module.matrix, adapter.layer), []).append(adapter)
    blocks = {key: _blocks(group) for key, group in groups.items()}
    rank = max(start + group[0].rank for each in blocks.values() for start, group in each)
    scale = common_scale(adapters.values(), source)
    alphas = {settings.alpha_of(adapter.name) for adapter in adapters.values()}
    if len(alphas) == 1 and all(adapter.rank == rank for adapter in adapters.values()):
        alpha = alphas.pop()
    else:
        alpha = scale * (sqrt(rank) if settings.stabilized else rank)
    return BlockLayout(rank, alpha, settings.stabilized, blocks, scale)


def common_scale(adapters: Iterable[ModuleAdapter], source: object) -> float:
    """Return the largest scale, of which the others must be halves, quarters and so on."""
    ordered = sorted(adapters, key=lambda adapter: -adapter.scale)
    largest = ordered[0]
    for adapter in ordered:
        if power_of_two(adapter.scale / largest.scale) is None:
            raise UserError(
                f"{source}: the scales of {largest.name} ({largest.scale:.6g}) and {adapter.name} "
                f"({adapter.scale:.6g}) are not a power of two apart, and here all have one: merge "
                "it with PEFT and convert the whole model with from-hf"
            )
    return largest.scale


def power_of_two(ratio: float) -> float | None:
    """Return the power of two that a ratio is but for rounding, or None."""
    for exponent in (frexp(ratio)[1] - 1, frexp(ratio)[1]):
        power = ldexp(1.0, exponent)
        if abs(ratio / power - 1) < SAME:
            return power
    return None


def joined(
    blocks: Blocks, layout: BlockLayout, reads: tuple[int, ...], writes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Make A [reads…, rank] and B [rank, writes…] of one matrix in one layer.

    Raises:
        UserError: a number of B is so small that half of it is not a float32.
    """
    a = np.zeros((*reads, layout.rank), np.float32)
    b = np.zeros((layout.rank, *writes), np.float32)
    for start, group in blocks:
        for adapter in group:
            theirs_a, theirs_b = adapter.read()
            factor = power_of_two(adapter.scale / layout.scale) or 1.0
            scaled = theirs_b * np.float32(factor)
            if not np.array_equal(scaled / np.float32(factor), theirs_b):
                raise UserError(
                    f"{adapter.name}.lora_B: has numbers that are too small to be multiplied with "
                    f"{factor:g}, for all matrices have one scale here"
                )
            adapter.module.put(theirs_a, scaled, a, b, start)
    return a, b


def _blocks(group: list[ModuleAdapter]) -> Blocks:
    """Give each A its ranks, one after the other; the same A is there once."""
    by_content: dict[bytes, list[ModuleAdapter]] = {}
    for adapter in group:
        key = b"" if len(group) == 1 else hashlib.sha256(adapter.read()[0].tobytes()).digest()
        by_content.setdefault(key, []).append(adapter)
    blocks, start = [], 0
    for same in by_content.values():
        blocks.append((start, same))
        start += same[0].rank
    return blocks
