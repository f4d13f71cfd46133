"""The fate of every tensor: the account that a certificate gives."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxneox.errors import listed

ANEW = "laid out anew"
BLOCK = 1 << 18  # bytes


@dataclass(frozen=True)
class Drift:
    """The distance of the ranks' copies of one tensor from each other, and from their mean."""

    between: float  # the largest difference of two ranks
    max: float  # the largest distance from the mean
    rms: float
    of: float  # the rms of the mean itself


def differ(copies: Iterable[np.ndarray]) -> bool:
    """Tell whether copies of a tensor differ; a NaN that all of them have is the same."""
    first, *others = copies
    return not all(np.array_equal(first, other, equal_nan=True) for other in others)


@np.errstate(invalid="ignore")
def drift_of(copies_RD: np.ndarray) -> Drift:
    """Measure how far the ranks' copies have drifted: NaN if a number is not finite in some."""
    away = copies_RD - copies_RD.mean(axis=0)
    if not differ(copies_RD):
        away = np.zeros((1, 1))  # and not what rounding the mean leaves
    rms, of = (float(np.sqrt(np.mean(x * x))) for x in (away, copies_RD.mean(axis=0)))
    between = float((away.max(axis=0) - away.min(axis=0)).max())
    return Drift(between, float(abs(away).max()), rms, of)


@dataclass(frozen=True)
class Fate:
    """The fate of one tensor, on all ranks, under the name that its own program gives it."""

    name: str
    module: int | None  # of NeoX's Sequential
    layer: int | None
    ranks: int
    shape: tuple[int, ...]  # of one rank's
    dtype: str
    leaf: str | None  # ours; None where it has no effect
    fate: str
    elements: int  # of all ranks
    used: int  # of those, elements that have their place on the other side
    changed: int = 0  # elements that are other numbers there
    same_bits: bool | None = None  # sums of bit patterns; None where numbers changed
    drift: Drift | None = None
    not_finite: int = 0  # elements that are NaN or infinite before anything was done with them

    @property
    def where(self) -> str:
        """The tensor's name, with its layer if the name alone does not identify it."""
        return self.name if self.layer is None else f"layer {self.layer}, {self.name}"

    @property
    def whole(self) -> bool:
        """Whether every element was used exactly once, or the tensor has no effect."""
        return self.leaf is None or (self.used == self.elements and self.same_bits is not False)


def laid_out(
    name: str, layer: int | None, leaf: str, source: np.ndarray, target: np.ndarray
) -> Fate:
    """Account for a tensor that became another with the same elements, counted on both sides."""
    same_type = source.dtype == target.dtype
    fate = ANEW if same_type else f"{ANEW}, rounded to {target.dtype.name}"
    same_bits = bit_sum(source) == bit_sum(target) if same_type else None
    changed = 0 if same_type else int((source.astype(target.dtype) != source).sum())
    sizes = source.size, target.size
    return Fate(name, None, layer, 1, source.shape, source.dtype.name, leaf, fate, *sizes,
                changed, same_bits, not_finite=not_finite(source))  # fmt: skip


def named(where: Sequence[str]) -> str:
    """Say how many tensors there are, and name the first eight of them."""
    return f"{len(where)} tensor{'s' * (len(where) > 1)}: {listed(where, separator='; ')}"


def not_finite(array: np.ndarray) -> int:
    """Count the elements that are NaN or infinite: those whose exponent has all bits set."""
    if array.dtype.kind in "biu":
        return 0
    exponent = np.array(np.inf, array.dtype).view(f"u{array.itemsize}")
    return sum(int(np.count_nonzero((part & exponent) == exponent)) for part in blocks(array))


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the bits of an array, some rows at a time that a core's cache holds."""
    bits = np.atleast_1d(array).view(f"u{array.itemsize}")
    rows = max(1, BLOCK * len(bits) // max(1, bits.nbytes))
    yield from (bits[start : start + rows] for start in range(0, len(bits), rows))


def check_whole(fates: Iterable[Fate]) -> None:
    """Check that no element was lost or used twice.

    Raises:
        RuntimeError: one was, which is an error of this program.
    """
    lost = [fate.name for fate in fates if not fate.whole]
    if lost:
        raise RuntimeError(f"elements were lost or used twice, in {', '.join(lost[:8])}")


def bit_sum(array: np.ndarray) -> int:
    """Add up the bit patterns of all elements; the sum does not depend on their order."""
    return sum(int(part.sum(dtype=np.uint64)) for part in blocks(array)) % 2**64
