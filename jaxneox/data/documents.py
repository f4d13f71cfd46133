r"""Documents out of files: lines of JSON, plain text and tables, compressed or not.

A file is read as chunks of about a megabyte, which are small enough to be sent to another process
and hold all that is needed to name a bad line. What is a document follows NeoX's tool and the
reader that it uses, lm_dataformat:

    .jsonl                      a line is one: an object with a key, "text", or a bare string
    .txt                        the file is one; any line end becomes "\n"
    .parquet                    a row is one: the column "text"
    .arrow                      the same, as in a folder that `datasets` has saved
    .jsonl, .txt, each with     the same, compressed; also .json.gz and .json.zst, of lines
    .gz or .zst

A list of strings is joined by empty lines. Empty documents are dropped.
"""

import io
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jaxneox.data.compressed import DamagedError, blocks
from jaxneox.data.input_files import SUFFIXES, input_files, kind_of
from jaxneox.data.tables import arrow_batches, columns_of, row_groups
from jaxneox.errors import UserError, listed

__all__ = [
    "CHUNK",
    "SUFFIXES",
    "Chunk",
    "Record",
    "chunks",
    "input_files",
    "keys_of",
    "kind_of",
    "text_of",
]

CHUNK = 1 << 20  # bytes, decompressed
LONGEST_LINE = 1 << 28  # bytes of one line, decompressed
LONGEST_TEXT = 1 << 32  # bytes of a text file, which is one document
LONGEST_UNPACKED = 1 << 30  # bytes of one that is compressed
TEXT = ("text",)

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
        for number, line in enumerate(io.BytesIO(self.data), self.first):  # one at a time
            if line.isspace():
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
            data = _whole(path)
            if path.suffix == ".py":
                # An interpreter may carry a module in another encoding: no reason not to train.
                text = data.decode(errors="replace")
            else:
                text = _decoded(data, path, 1)
            yield str(path), text.replace("\r\n", "\n").replace("\r", "\n")


def chunks(files: Iterable[pathlib.Path], columns: Sequence[str] = TEXT) -> Iterator[Chunk]:
    """Yield the files in order, cut at the same places each time.

    Args:
        files: those of `input_files`.
        columns: which columns of tables are read.
    """
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
            yield from row_groups(path, tuple(columns))
        elif kind == "arrow":
            yield from arrow_batches(path, tuple(columns))
    if small:
        yield Texts(tuple(small), size)


def keys_of(files: Sequence[pathlib.Path]) -> tuple[str, ...]:
    """Return the keys of the first document, or a table's columns; none of plain text."""
    for path in files:
        if kind_of(path) in ("table", "arrow"):
            return tuple(columns_of(path))
        for chunk in chunks([path]):
            for _, value in chunk.records():
                return tuple(value) if isinstance(value, dict) else ()
    return ()


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


def _whole(path: pathlib.Path) -> bytes:
    """Read a file that is one document."""
    longest = LONGEST_TEXT if path.suffix in (".txt", ".py") else LONGEST_UNPACKED
    parts, size = [], 0
    try:
        for block, _ in blocks(path):
            parts.append(block)
            size += len(block)
            if size > longest:
                raise UserError(
                    f"{path}: a text of more than {longest >> 20:,} MiB, which is one document; "
                    "cut it into several files"
                )
    except DamagedError as error:
        raise UserError(f"{path}: {error}; copy the file again") from error
    return b"".join(parts)


def _lines(path: pathlib.Path) -> Iterator[Lines]:
    held = bytearray()
    end = 0  # of the last whole line in `held`
    first, before, now = 1, 0, 0
    try:
        for block, now in blocks(path):
            if newline := block.rfind(b"\n") + 1:
                end = len(held) + newline
            held += block
            if end and len(held) >= CHUNK:
                data = bytes(held[:end])
                yield Lines(path, data, first, now - before)
                first += data.count(b"\n")
                before, end = now, 0
                del held[: len(data)]
            if len(held) > LONGEST_LINE:
                raise UserError(
                    f"{path}, line {first}: longer than {LONGEST_LINE >> 20:,} MiB; expected a "
                    "document on each line: cut it into several"
                )
    except DamagedError as error:
        line = first + held.count(b"\n")
        raise UserError(f"{path}, line {line}: {error}; copy the file again") from error
    if held:
        yield Lines(path, bytes(held), first, now - before)
