"""Reads a file of `torch.save` without torch: its pickle is restricted, and its tensors are mapped.

The format is a zip archive whose records are stored uncompressed: `<prefix>/data.pkl`, the pickle,
and `<prefix>/data/<key>`, one raw little-endian storage each (torch/csrc/jit/serialization, torch
1.6 and later).
"""

import io
import math
import mmap
import reprlib
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from convert.readers.pickles import Unpickler
from jaxneox.errors import UserError
from jaxneox.reading import refuse_unreadable

LOCAL_HEADER = 30  # bytes before the name in a zip's local header
MOST_AXES, BEYOND = 32, 1 << 63  # what NumPy's arrays and torch's tensors can have
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch before 1.6 began its files


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of a mapped file; nothing is read before `numpy`."""

    file: "TorchFile"
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in bytes
    start: int  # in bytes from the file's beginning

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def numpy(self) -> np.ndarray:
        """Return a read-only view of the file."""
        view = np.ndarray(self.shape, self.dtype, self.file.map, self.start, self.strides)
        view.flags.writeable = False
        return view


@dataclass(frozen=True)
class Record:
    """The bytes of a record of the archive, and their checksum."""

    start: int
    length: int
    crc: int


class FileWindow(io.RawIOBase):
    """A part of a file, `length` bytes from `start` on, as a readable file of its own."""

    def __init__(self, path: Path, start: int, length: int) -> None:
        self._file, self._start, self._length, self._at = path.open("rb"), start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise ValueError("a place before the file")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        content = self._file.read(min(len(buffer), max(0, self._length - self._at)))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


class TorchFile:
    """A file of `torch.save`.

    Checksums of records are not verified on opening, but by `digest`, which reads the whole file,
    and by `check`.

    Args:
        path: the file.
        start: the first byte, in a file that is a concatenation of several.
        length: the number of bytes, likewise.

    Raises:
        UserError: it is not a whole `torch.save` file; the message names the file.
    """

    def __init__(self, path: Path, start: int = 0, length: int | None = None) -> None:
        self.path = path
        try:
            refuse_unreadable(path)
            self.size = path.stat().st_size - start if length is None else length
            with FileWindow(path, start, self.size) as file:
                if file.read(len(LEGACY)) == LEGACY:
                    raise UserError(
                        f"{path}: was saved by torch before 1.6; load and save it once with a "
                        "current torch"
                    )
                self.records = dict(_records(file, start, self.size))
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, EOFError) as error:
            raise damaged(path, str(error) or type(error).__name__) from error

    @cached_property
    def map(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def content(self) -> Any:
        """The saved content, with LazyTensors."""
        name = next((n for n in self.records if n.endswith("/data.pkl")), None)
        if name is None:
            raise damaged(self.path, "no data.pkl in the archive")
        self._prefix = name.removesuffix("data.pkl")
        order = self.records.get(f"{self._prefix}byteorder")
        if order and self.map[order.start : order.start + order.length] != b"little":
            raise damaged(self.path, "its numbers are not little-endian")
        record = self.records[name]
        pickled = self.map[record.start : record.start + record.length]
        if zlib.crc32(pickled) != record.crc:
            raise damaged(self.path, f"the checksum of its record {name} is wrong")
        try:
            return Unpickler(pickled, str(self.path), self._storage, self._tensor).load()
        except UserError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            raise damaged(self.path, reason(error)) from error

    def check(self) -> None:
        """Raise a UserError if a record is not what was written."""
        for name, record in self.records.items():
            with memoryview(self.map) as view:
                if zlib.crc32(view[record.start : record.start + record.length]) != record.crc:
                    raise damaged(self.path, f"the checksum of its record {name} is wrong")

    def forget(self) -> None:
        """Let the system reclaim the memory of what was read so far."""
        with suppress(AttributeError):  # not on every system
            self.map.madvise(mmap.MADV_DONTNEED)

    def _storage(self, key: str, dtype: np.dtype, elements: int) -> tuple[Record, np.dtype]:
        record = self.records.get(f"{self._prefix}data/{key}")
        if record is None or elements * dtype.itemsize > record.length:
            actual = "missing" if record is None else f"{record.length} bytes"
            raise ValueError(
                f"record {key} is {actual}, expected {elements * dtype.itemsize} bytes"
            )
        return record, dtype

    def _tensor(
        self, storage: tuple[Record, np.dtype], offset: int, shape: Any, stride: Any
    ) -> LazyTensor:
        record, dtype = storage
        sizes = (offset, *shape, *stride)
        if (
            not len(shape) == len(stride) <= MOST_AXES
            or not all(type(n) is int and 0 <= n < BEYOND for n in sizes)
        ):  # fmt: skip
            raise ValueError(f"a tensor of shape {reprlib.repr(shape)}")
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        elements, available = math.prod(shape), record.length // dtype.itemsize
        if (
            elements and max(last + 1, elements) > available
        ):  # more elements than numbers: an expansion
            raise ValueError(f"a tensor of shape {list(shape)[:8]} in {available} elements")
        strides = tuple(s * dtype.itemsize for s in stride)
        return LazyTensor(
            self, dtype, tuple(shape), strides, record.start + offset * dtype.itemsize
        )


def _records(file: FileWindow, offset: int, size: int) -> Mapping[str, Record]:
    """Find records in `size` bytes from `offset` on; positions count from the file's start."""
    records = {}
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise ValueError(f"record {info.filename} is compressed")
            file.seek(info.header_offset)
            header = file.read(LOCAL_HEADER)
            if len(header) < LOCAL_HEADER or header[:4] != b"PK\x03\x04":
                raise ValueError(f"record {info.filename} has no header")
            name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
            start = info.header_offset + LOCAL_HEADER + name + extra
            if start + info.file_size > size:
                raise ValueError(f"record {info.filename} ends after the file")
            if info.filename in records:
                raise ValueError(f"record {info.filename} is there twice")
            records[info.filename] = Record(offset + start, info.file_size, info.CRC)
    end = 0
    for at, record in sorted(records.items(), key=lambda item: item[1].start):
        if record.start < end:
            raise ValueError(f"record {at} overlaps another")
        end = record.start + record.length
    return records


def reason(error: Exception) -> str:
    """Return what a damaged file made a reader raise; our own ValueErrors are half sentences."""
    own = type(error) is ValueError and str(error)
    return str(error) if own else f"{type(error).__name__}: {str(error)[:200]}"


def damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: is damaged or not a torch file ({why}); copy it again from its source"
    )
