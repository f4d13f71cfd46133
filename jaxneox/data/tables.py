"""Rows of tables: parquet files, and the Arrow streams that Hugging Face's `datasets` saves.

Only the columns that are asked for are read, so that what is wrong with others does not matter.

Formats: https://parquet.apache.org/docs/file-format and
https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format.
"""

import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxneox.data.library import reason
from jaxneox.errors import UserError

ROWS = 256  # of a table, held as Python's values at a time
CHUNK = 1 << 20  # bytes of an Arrow stream from which on a chunk is whole
SLICE = 1 << 24  # bytes of a row group, by its own account, from which on it is several chunks
SLICES = 16  # at most: each is decoded from the group's first row on
LARGEST = 1 << 28  # bytes that a slice, or a record batch, may be in truth
HELD = 1 << 31  # bytes of ROWS, if each were the longest that the row group can have
FEATHER = b"ARROW1"
"""The first bytes of Arrow's file format, which is not its stream."""

Columns = tuple[str, ...]


@dataclass(frozen=True)
class RowGroup:
    """Some rows of a row group of a parquet file."""

    path: pathlib.Path
    index: int
    start: int  # row of the group, counted from 0
    stop: int
    first: int  # row of the file, counted from 1
    columns: Columns
    read: int
    held: int  # rows at a time
    largest: int  # bytes of all

    def records(self) -> Iterator[tuple[str, Any]]:
        number, at, size = self.first, 0, 0
        file = _parquet(self.path)
        names = list(self.columns)
        try:
            for batch in file.iter_batches(self.held, row_groups=[self.index], columns=names):
                part = batch.slice(max(0, self.start - at), max(0, self.stop - max(at, self.start)))
                at += batch.num_rows
                if not part.num_rows:
                    continue
                _check_size(size + part.nbytes, self.largest, self.path, number)
                for where, row in _rows(part, self.path, number):
                    size += _length(row)  # of a dictionary, `nbytes` counts each value once
                    _check_size(size, self.largest, self.path, number)
                    yield where, row
                number += part.num_rows
                if at >= self.stop:
                    break
        except UserError:
            raise
        except Exception as error:  # pyarrow's are of many kinds
            raise _damaged(self.path, number, error) from error


@dataclass(frozen=True)
class ArrowBatches:
    """Some record batches of an Arrow stream, by the bytes at which they begin."""

    path: pathlib.Path
    offsets: tuple[int, ...]
    first: int  # row, counted from 1
    columns: Columns
    read: int

    def records(self) -> Iterator[tuple[str, Any]]:
        ipc, number = _pyarrow(self.path).ipc, self.first
        try:
            with _pyarrow(self.path).memory_map(str(self.path)) as source:
                schema = ipc.read_schema(ipc.read_message(source))
                for offset in self.offsets:
                    source.seek(offset)
                    batch = ipc.read_record_batch(ipc.read_message(source), schema)
                    batch = batch.select(list(self.columns))
                    batch.validate(full=True)  # else a damaged one may end this process
                    _check_size(batch.nbytes, LARGEST, self.path, number)
                    yield from _rows(batch, self.path, number)
                    number += batch.num_rows
        except UserError:
            raise
        except Exception as error:
            raise _damaged(self.path, number, error) from error


def row_groups(path: pathlib.Path, columns: Columns) -> Iterator[RowGroup]:
    """Yield the row groups of a parquet file that has these columns."""
    file = _parquet(path)
    _check_columns(path, columns, file.schema_arrow.names)
    groups = file.metadata
    first, share = 1, path.stat().st_size // max(groups.num_row_groups, 1)
    for index in range(groups.num_row_groups):
        group = groups.row_group(index)
        every = (group.column(i) for i in range(group.num_columns))
        asked = [one for one in every if one.path_in_schema.partition(".")[0] in columns]
        size = sum(one.total_uncompressed_size for one in asked)
        held = max(1, min(ROWS, HELD // max(size, 1)))
        slices = min(SLICES, max(1, -(-size // SLICE)))
        largest = max(LARGEST, 4 * size // slices)
        rows = max(1, -(-group.num_rows // slices))
        for start in range(0, group.num_rows, rows):
            stop = min(start + rows, group.num_rows)
            part = share * (stop - start) // group.num_rows
            yield RowGroup(path, index, start, stop, first + start, columns, part, held, largest)
        first += group.num_rows


def arrow_batches(path: pathlib.Path, columns: Columns) -> Iterator[ArrowBatches]:
    """Yield the record batches of an Arrow stream that has these columns, small ones together."""
    first = 1
    offsets: list[int] = []
    size = rows = 0
    for offset, length, count, schema in _batches(path):
        if offset == 0:
            _check_columns(path, columns, schema.names)
            continue
        offsets.append(offset)
        size, rows = size + length, rows + count
        if size >= CHUNK:
            yield ArrowBatches(path, tuple(offsets), first, columns, size)
            first, offsets, size, rows = first + rows, [], 0, 0
    if offsets:
        yield ArrowBatches(path, tuple(offsets), first, columns, size)


def columns_of(path: pathlib.Path) -> list[str]:
    """Return the names of a table's columns."""
    if path.suffix == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    return list(next(_batches(path))[3].names)


def _batches(path: pathlib.Path) -> Iterator[tuple[int, int, int, Any]]:
    """Yield where each message begins, its bytes and rows, and the schema, which comes first."""
    ipc = _pyarrow(path).ipc
    offset = 0
    try:
        with _pyarrow(path).memory_map(str(path)) as source:
            if source.read(len(FEATHER)) == FEATHER:
                raise UserError(
                    f"{path}: is in Arrow's file format; expected a stream, as `datasets` saves it"
                )
            source.seek(0)
            schema = ipc.read_schema(ipc.read_message(source))
            yield 0, 0, 0, schema
            end = source.size()
            while (offset := source.tell()) < end:
                try:
                    message = ipc.read_message(source)
                except EOFError:  # the mark at the end
                    return
                if message.type != "record batch":
                    raise UserError(
                        f"{path}: has a {message.type} at byte {offset:,}; expected rows alone: "
                        "write it again without dictionaries"
                    )
                count = ipc.read_record_batch(message, schema).num_rows
                yield offset, source.tell() - offset, count, schema
    except (UserError, GeneratorExit):
        raise
    except Exception as error:
        raise UserError(
            f"{path}: not a whole Arrow stream, at byte {offset:,} ({reason(error)}); copy it again"
        ) from error


def _rows(batch: Any, path: pathlib.Path, first: int) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a record batch; an error names the row."""
    for start in range(0, batch.num_rows, ROWS):
        part = batch.slice(start, ROWS)
        try:
            rows = part.to_pylist()
        except Exception:
            for i in range(part.num_rows):
                try:
                    part.slice(i, 1).to_pylist()
                except Exception as error:
                    names = ", ".join(batch.schema.names)
                    raise UserError(
                        f"{path}, row {first + start + i}: a value of {names} cannot be read "
                        f"({reason(error)}); take the row out"
                    ) from error
            raise
        for i, row in enumerate(rows, first + start):
            yield f"{path}, row {i}", row


def _length(value: Any) -> int:
    """Return the characters of all texts in a row, and a little for any other value."""
    if isinstance(value, dict):
        return sum(map(_length, value.values()))
    if isinstance(value, list):
        return sum(map(_length, value))
    return len(value) if isinstance(value, str | bytes) else 8


def _check_size(size: int, largest: int, path: pathlib.Path, number: int) -> None:
    if size > largest:
        raise UserError(
            f"{path}, row {number}: the rows here unpack to more than {largest >> 20:,} MiB; write "
            "the file again in smaller row groups, or record batches"
        )


def _check_columns(path: pathlib.Path, columns: Columns, there: Sequence[str]) -> None:
    for name in columns:
        if there.count(name) != 1:
            found = "several columns" if name in there else f"the columns {', '.join(there)}"
            raise UserError(f'{path}: {found}, expected one with the name "{name}"')


def _pyarrow(path: pathlib.Path) -> Any:
    try:
        import pyarrow.ipc
    except ImportError as error:
        raise UserError(f"{path}: reading Arrow needs `pip install pyarrow`") from error
    return pyarrow


def _parquet(path: pathlib.Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path}: reading parquet needs `pip install pyarrow`") from error
    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # pyarrow's are of many kinds
        raise UserError(f"{path}: not a whole parquet file ({reason(error)})") from error


def _damaged(path: pathlib.Path, number: int, error: Exception) -> UserError:
    return UserError(f"{path}, row {number}: damaged ({reason(error)}); copy the file again")
