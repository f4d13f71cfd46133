r"""Documents out of files: lines of JSON, plain text and tables, compressed or not.

A file is read as chunks of about a megabyte, which are small enough to be sent to another process
and hold all that is needed to name a bad line. What is a document follows NeoX's tool and the
reader that it uses, lm_dataformat:

    .jsonl                      a line is one: an object with a key, "text", or a bare string
    .txt                        the file is one; any line end becomes "\n"
    .parquet                    a row is one: the column "text"
    each with .gz or .zst       the same, compressed; also .json.gz and .json.zst, of lines

A list of strings is joined by empty lines. Empty documents are dropped.
"""

import json
import pathlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from jaxneox.errors import UserError, listed
from jaxneox.reading import refuse_unreadable

KINDS = {
    "lines": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst"),
    "text": (".txt", ".txt.gz", ".txt.zst"),
    "table": (".parquet",),
}
SUFFIXES = tuple(suffix for suffixes in KINDS.values() for suffix in suffixes)
CHUNK = 1 << 20  # bytes, decompressed
BLOCK = 1 << 16  # bytes read at a time: decompressed they may be a thousand times more
LONGEST_WINDOW = 1 << 31  # bytes that zstd --long=31 looks back
ROWS = 1 << 12  # of a table, held at a time

Record = tuple[str, Any]  # where it is, and a text or what its line of JSON holds


class Chunk(Protocol):
    """Some records of the input. `read` is how many bytes of its files it stands for."""

    @property
    def read(self) -> int: ...

    def records(self) -> Iterator[Record]: ...


@dataclass(frozen=True)
class Lines:
    """Whole lines of a file, from line `first` on, counted from 1."""

    path: pathlib.Path
    data: bytes
    first: int
    read: int

    def records(self) -> Iterator[Record]:
        for number, line in enumerate(self.data.split(b"\n"), self.first):
            if not line or line.isspace():
                continue
            text = _decoded(line, self.path, number).removeprefix("\ufeff")
            where = f"{self.path}, line {number}"
            try:
                yield where, json.loads(text)
            except ValueError as error:
                raise UserError(f"{where}: not JSON ({error})") from error
            except RecursionError as error:
                raise UserError(f"{where}: JSON nested too deep") from error


@dataclass(frozen=True)
class Texts:
    """Files that are one document each."""

    paths: tuple[pathlib.Path, ...]
    read: int

    def records(self) -> Iterator[Record]:
        for path in self.paths:
            try:
                data = b"".join(block for block, _ in _blocks(path))
            except _DamagedError as error:
                raise UserError(f"{path}: {error}; copy the file again") from error
            if path.suffix == ".py":
                # An interpreter may carry a module in another encoding: no reason not to train.
                text = data.decode(errors="replace")
            else:
                text = _decoded(data, path, 1)
            yield str(path), text.replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True)
class RowGroup:
    """One row group of a parquet file."""

    path: pathlib.Path
    index: int
    first: int  # row, counted from 1
    read: int

    def records(self) -> Iterator[Record]:
        number = self.first
        file = _parquet(self.path)
        try:
            for batch in file.iter_batches(ROWS, row_groups=[self.index]):
                for row in batch.to_pylist():
                    yield f"{self.path}, row {number}", row
                    number += 1
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path}, row {number}: damaged ({_line(error)})") from error


def input_files(path: str | pathlib.Path) -> list[pathlib.Path]:
    """List a file, or all files of a folder that can be read, sorted.

    Raises:
        UserError: there are none, or one is a Git LFS pointer.
    """
    files = _readable_files(path)
    for file in files:
        refuse_unreadable(file)
    return files


def _readable_files(path: str | pathlib.Path) -> list[pathlib.Path]:
    root = pathlib.Path(path)
    if root.is_dir():
        files = sorted(p for p in root.rglob("*") if kind_of(p) and p.is_file())
        if not files:
            raise UserError(f"{path}: nothing to read, expected files {', '.join(SUFFIXES)}")
        return files
    if not root.is_file():
        raise UserError(f"{path}: no such file")
    if kind_of(root) is None:
        raise UserError(
            f"{path}: unknown kind of file, expected {', '.join(SUFFIXES)}; unpack an archive first"
        )
    return [root]


def kind_of(path: pathlib.Path) -> str | None:
    for kind, suffixes in KINDS.items():
        if path.name.endswith(suffixes):
            return kind
    return None


def chunks(files: Iterable[pathlib.Path]) -> Iterator[Chunk]:
    """Yield the files in order, cut at the same places each time."""
    small: list[pathlib.Path] = []
    size = 0
    for path in files:
        if (kind := kind_of(path) or "text") == "text":
            small.append(path)
            size += path.stat().st_size
        if small and (kind != "text" or size >= CHUNK):
            yield Texts(tuple(small), size)
            small, size = [], 0
        if kind == "lines":
            yield from _lines(path)
        elif kind == "table":
            yield from _row_groups(path)
    if small:
        yield Texts(tuple(small), size)


def text_of(record: Record, key: str = "text") -> str:
    """Return the text of a record.

    Raises:
        UserError: it has none.
    """
    where, value = record
    text = value.get(key) if isinstance(value, dict) else value
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = "\n\n".join(text)
    if not isinstance(text, str):
        if not isinstance(value, dict):
            shown = repr(value)[:40]
        elif key in value:
            shown = f'"{key}" is {repr(text)[:40]}'
        else:
            shown = f"the keys {listed(value)}"
        raise UserError(f'{where}: {shown}, expected a string or an object with a "{key}"')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: half a surrogate pair, {text[error.start]!a}") from error
    return text


def _decoded(data: bytes, path: pathlib.Path, line: int) -> str:
    """Decode UTF-8; `data` begins in this line of the file."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise UserError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; convert the file"
        ) from error


def _lines(path: pathlib.Path) -> Iterator[Lines]:
    held = bytearray()
    end = 0  # of the last whole line in `held`
    first, before, now = 1, 0, 0
    try:
        for block, now in _blocks(path):
            if newline := block.rfind(b"\n") + 1:
                end = len(held) + newline
            held += block
            if end and len(held) >= CHUNK:
                data = bytes(held[:end])
                yield Lines(path, data, first, now - before)
                first += data.count(b"\n")
                before, end = now, 0
                del held[: len(data)]
    except _DamagedError as error:
        line = first + held.count(b"\n")
        raise UserError(f"{path}, line {line}: {error}; copy the file again") from error
    if held:
        yield Lines(path, bytes(held), first, now - before)


def _row_groups(path: pathlib.Path) -> Iterator[RowGroup]:
    groups = _parquet(path).metadata
    first, share = 1, path.stat().st_size // max(groups.num_row_groups, 1)
    for index in range(groups.num_row_groups):
        yield RowGroup(path, index, first, share)
        first += groups.row_group(index).num_rows


def _parquet(path: pathlib.Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path}: reading parquet needs `pip install pyarrow`") from error
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole parquet file ({_line(error)})") from error


class _DamagedError(Exception):
    """A compressed file that ends too early or is not what its name says."""


def _blocks(path: pathlib.Path) -> Iterator[tuple[bytes, int]]:
    """Yield a file's content, decompressed, and how many of its bytes are read so far."""
    new = {".gz": _gzip, ".zst": _zstandard}.get(path.suffix)
    stream: Any = None
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            read = file.tell()
            while new and block:  # a file may be several compressed streams, one after another
                stream = stream or new(path)
                try:
                    content = stream.decompress(block)
                except Exception as error:  # each library has its own
                    raise _DamagedError(f"damaged {path.suffix} ({_line(error)})") from error
                yield content, read
                block = stream.unused_data if stream.eof else b""
                stream = None if stream.eof else stream
            if new is None:
                yield block, read
    if stream is not None:
        raise _DamagedError(f"truncated {path.suffix}, it ends within its compressed data")


def _gzip(path: pathlib.Path) -> Any:
    return zlib.decompressobj(wbits=31)


def _zstandard(path: pathlib.Path) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise UserError(f"{path}: reading .zst needs `pip install zstandard`") from error
    return zstandard.ZstdDecompressor(max_window_size=LONGEST_WINDOW).decompressobj()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
