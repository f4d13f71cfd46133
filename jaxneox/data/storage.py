"""The two files of a dataset as bytes: the index whole, the tokens by ranges."""

import mmap
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxneox.errors import UserError
from jaxneox.reading import refuse_unreadable, regular_file

Buffer = bytes | memoryview


@dataclass(frozen=True)
class Url:
    """An address such as s3://bucket/folder/name, which can be asked for its name as a path can."""

    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def name(self) -> str:
        return self.text.rpartition("/")[2]

    def with_name(self, name: str) -> "Url":
        """Return the neighbour of that name."""
        return Url(self.text.rpartition("/")[0] + "/" + name)


Prefix = pathlib.Path | Url


def is_url(path: str | os.PathLike[str]) -> bool:
    return isinstance(path, str) and re.match(r"[a-z][a-z0-9+.]+://", path) is not None


class Files(Protocol):
    """A `.bin/.idx` pair, wherever it is.

    Attributes:
        index: all bytes of the `.idx`.
        bin_size: the bytes of the `.bin`.
    """

    index: memoryview
    bin_size: int

    def ranges(self, starts: Sequence[int], stops: Sequence[int]) -> Iterator[Buffer]:
        """Read the bytes [start, stop) of the `.bin`, in this order; all are within the file."""
        ...


class LocalFiles:
    """Both files memory-mapped: a range is a view, and costs nothing until it is read."""

    def __init__(self, bin_path: pathlib.Path, idx_path: pathlib.Path) -> None:
        for path in (idx_path, bin_path):
            if not path.is_file():
                if path.exists():
                    regular_file(path)  # says what it is
                raise UserError(
                    f"{path}: no such file; a dataset is a pair PREFIX.bin and PREFIX.idx, and "
                    "text must end in .txt or .jsonl or be a folder of such files"
                )
        self.index = mapped(idx_path)
        self._bin = mapped(bin_path)
        self.bin_size = len(self._bin)

    def ranges(self, starts: Sequence[int], stops: Sequence[int]) -> Iterator[memoryview]:
        return (self._bin[start:stop] for start, stop in zip(starts, stops, strict=True))


def mapped(path: pathlib.Path) -> memoryview:
    """Map a file's bytes without reading them; an empty file cannot be mapped, and need not be."""
    refuse_unreadable(path)
    if not path.stat().st_size:
        return memoryview(b"")
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
