"""Reads a folder of torch.distributed.checkpoint without torch: tensors in pieces, lazily.

`.metadata` is a pickle that says where each piece of each tensor lies: in which `.distcp` file,
from which byte on, and where in the whole tensor. A piece is a whole `torch.save` file of its own
(torch/distributed/checkpoint/{metadata,filesystem}.py, torch 2.1 and later).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from convert.readers.pickle_opcodes import LONGEST
from convert.readers.pickles import TORCH_DTYPES, Inert, Unpickler
from convert.readers.torch_file import LazyTensor, TorchFile, reason
from jaxneox.errors import UserError, listed
from jaxneox.reading import read_bytes

INDEX = ".metadata"
NUMPY = {name: np.dtype(name.removeprefix("torch.")) for name in TORCH_DTYPES}


@dataclass(frozen=True)
class Place:
    """The bytes of a file in which a piece or an object lies."""

    path: Path
    start: int
    length: int
    checked: set[tuple[Path, int]] = field(compare=False, repr=False)  # of the folder

    def open(self) -> TorchFile:
        """Open the place, and verify checksums the first time.

        Raises:
            UserError: the file is damaged.
        """
        file = TorchFile(self.path, self.start, self.length)
        if (self.path, self.start) not in self.checked:
            file.check()
            self.checked.add((self.path, self.start))
        return file


@dataclass(frozen=True)
class Piece:
    """A piece of a tensor, and where it is stored."""

    where: tuple[slice, ...]  # in the whole tensor
    place: Place

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.stop - axis.start for axis in self.where)


@dataclass(frozen=True)
class DistTensor:
    """A tensor in pieces; nothing is read before `numpy`, and only what is asked for."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def part(self, first: int) -> "DistTensor":
        """Return index `first` of the first axis, without reading it."""
        pieces = tuple(p for p in self.pieces if p.where[0].start <= first < p.where[0].stop)
        return DistPart(self.name, self.shape[1:], self.dtype, pieces, first)

    def numpy(self) -> np.ndarray:
        return self._filled(self.shape, slice(None))

    def span(self, start: int, stop: int) -> np.ndarray:
        """Read `[start:stop]` of a one-dimensional tensor, from the pieces that overlap it."""
        values, filled = np.empty(stop - start, self.dtype), 0
        asked = [p for p in self.pieces if p.where[0].start < stop and start < p.where[0].stop]
        self._refuse_overlaps(asked)
        for piece in asked:
            (own,) = piece.where
            first, last = max(own.start, start), min(own.stop, stop)
            part = self._read(piece)[first - own.start : last - own.start]
            values[first - start : last - start] = part
            filled += part.size
        self._refuse_gaps(f"elements {start} to {stop} of {self.name}", filled, values.size)
        return values

    def _filled(self, shape: tuple[int, ...], first: int | slice) -> np.ndarray:
        """Fill an array from pieces, or raise a UserError unless they cover each number once."""
        whole, filled = np.empty(shape, self.dtype), 0
        self._refuse_overlaps(self.pieces)
        for piece in self.pieces:
            numbers = self._read(piece)
            where: tuple[slice, ...] = piece.where
            if isinstance(first, int):
                numbers, where = numbers[first - where[0].start], where[1:]
            whole[where] = numbers
            filled += numbers.size
        self._refuse_gaps(self.name, filled, whole.size)
        return whole

    def _refuse_overlaps(self, pieces: Sequence[Piece]) -> None:
        """Refuse pieces that overlap: a number given twice could hide one that is missing."""
        for one, other in combinations(pieces, 2):
            if all(max(a.start, b.start) < min(a.stop, b.stop)
                   for a, b in zip(one.where, other.where, strict=True)):  # fmt: skip
                raise UserError(f"{one.place.path}: two pieces of {self.name} overlap")

    def _refuse_gaps(self, what: str, filled: int, size: int) -> None:
        if filled != size:
            folder = self.pieces[0].place.path.parent if self.pieces else INDEX
            raise UserError(
                f"{folder}: of {what} {filled} of {size} numbers are there; copy the whole "
                "checkpoint"
            )

    def _read(self, piece: Piece) -> np.ndarray:
        content = piece.place.open().content
        if not isinstance(content, LazyTensor) or (content.shape, content.dtype) != (
            piece.shape,
            self.dtype,
        ):
            raise UserError(
                f"{piece.place.path}: at byte {piece.place.start} is no {self.dtype} of shape "
                f"{list(piece.shape)}, which {INDEX} says is there of {self.name}"
            )
        return content.numpy()


@dataclass(frozen=True)
class DistPart(DistTensor):
    """One index of a tensor's first axis."""

    first: int = 0

    def numpy(self) -> np.ndarray:
        return self._filled(self.shape, self.first)


class DistFolder:
    """A folder of torch.distributed.checkpoint.

    Attributes:
        tensors: the tensors by name.
        objects: other values by name; each is a `torch.save` file.
        paths: the files in which these lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._checked = folder, set[tuple[Path, int]]()
        index = folder / INDEX
        try:
            state = _unpickled(index)
            self._places = dict(self._storage(state["storage_data"]))
            entries = state["state_dict_metadata"]
            self.tensors = {
                name: self._tensor(name, entry.state)
                for name, entry in entries.items()
                if "chunks" in (entry.state or ())
            }
            self.objects = {
                name: self._places[name, None] for name in entries if (name, None) in self._places
            }
        except UserError:
            raise
        except Exception as error:  # a damaged pickle can be anything
            raise UserError(
                f"{index}: is damaged or not an index of a checkpoint ({reason(error)}); copy it "
                "again from its source"
            ) from error
        self.paths = sorted({place.path for place in self._places.values()})
        missing = [path.name for path in self.paths if not path.is_file()]
        if missing:
            raise UserError(f"{folder}: missing {listed(missing)}; copy the whole checkpoint")

    def _storage(self, places: Mapping[Inert, Inert]) -> Any:
        for key, value in places.items():
            name, offset = key.state["fqn"], key.state.get("offset")
            entry = value.state
            file, start, length = entry["relative_path"], entry["offset"], entry["length"]
            if Path(file).name != file or not file.endswith(".distcp"):
                raise ValueError(f"it names the file {file!r}")
            if entry.get("transform_descriptors"):
                raise UserError(
                    f"{self.folder}: {name} is stored compressed; save it again without"
                )
            if min(start, length) < 0:
                raise ValueError(f"{name} lies at {start}, {length} bytes")
            where = None if offset is None else tuple(offset)
            yield (name, where), Place(self.folder / file, start, length, self._checked)

    def _tensor(self, name: str, state: Mapping[str, Any]) -> DistTensor:
        shape = tuple(state["size"])
        properties = state["properties"].state
        kind = properties["dtype"] if isinstance(properties, Mapping) else properties[0]
        if kind not in NUMPY:
            raise UserError(
                f"{self.folder}: {name} is {kind}, which is not a type of weight that we support"
            )
        pieces = []
        for chunk in state["chunks"]:
            offsets, sizes = tuple(chunk.state["offsets"]), tuple(chunk.state["sizes"])
            where = tuple(slice(at, at + n) for at, n in zip(offsets, sizes, strict=True))
            inside = (0 <= s.start <= s.stop <= n for s, n in zip(where, shape, strict=True))
            if not all(inside):
                raise ValueError(f"a piece of {name} lies at {offsets}, outside of {shape}")
            pieces.append(Piece(where, self._places[name, offsets]))
        return DistTensor(name, shape, NUMPY[kind], tuple(pieces))


def _unpickled(path: Path) -> Mapping[str, Any]:
    def refuse(*_: Any) -> None:
        raise ValueError("an index that has a tensor")

    state = Unpickler(read_bytes(path, LONGEST), str(path), refuse, refuse).load().state
    if not isinstance(state, Mapping):
        raise ValueError("it holds no index")
    return state
