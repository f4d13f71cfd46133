"""Writes `.bin/.idx` datasets; see `indexed` for the format."""

import array
import os
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from jaxneox.data.indexed import DTYPES, HEADER, MAGIC, VERSION, dataset_prefix
from jaxneox.errors import UserError


class IndexedWriter:
    """Writes a dataset whose documents are one sequence each, as NeoX's preprocessing does.

    A context manager. The files appear under their names only when all went well, the index
    last, so that nobody ever reads half a dataset.
    """

    def __init__(self, prefix: str | os.PathLike[str], dtype: DTypeLike) -> None:
        self.prefix = dataset_prefix(prefix)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._sizes = array.array("i")
        self._temporary = self.prefix.with_name(f".{self.prefix.name}.{os.getpid()}.tmp")
        self._bin = self._temporary.open("wb")

    def __len__(self) -> int:
        """The documents added so far."""
        return len(self._sizes)

    def add(self, tokens: ArrayLike) -> None:
        """Append one document.

        Raises:
            UserError: the dtype cannot hold a token.
        """
        values = np.asarray(tokens)
        stored = values.astype(self.dtype)
        if not np.array_equal(stored, values):
            raise UserError(
                f"{self.prefix}: document {len(self._sizes)} has tokens from {values.min()} to "
                f"{values.max()}, which {self.dtype} cannot hold"
            )
        self._bin.write(stored.tobytes())
        self._sizes.append(stored.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._bin:
                if kind is None:
                    _sync(self._bin)
            if kind is None:
                os.replace(self._temporary, self.prefix.with_name(self.prefix.name + ".bin"))
                self._write_index()
        finally:
            self._temporary.unlink(missing_ok=True)

    def _write_index(self) -> None:
        sizes = np.asarray(self._sizes, np.int32)
        with self._temporary.open("wb") as index:
            write_index(index, self.dtype, sizes, np.arange(len(sizes) + 1))
            _sync(index)
        os.replace(self._temporary, self.prefix.with_name(self.prefix.name + ".idx"))


def write_index(
    file: IO[bytes], dtype: np.dtype[Any], sizes: NDArray[Any], doc_idx: NDArray[Any]
) -> None:
    """Write the whole `.idx` of sequences of these sizes [N] and document bounds doc_idx [M]."""
    stored = np.asarray(sizes, "<i4")
    starts = (np.cumsum(stored, dtype="<i8") - stored) * dtype.itemsize
    file.write(HEADER.pack(MAGIC, VERSION, dtype_code(dtype), len(stored), len(doc_idx)))
    for part in (stored, starts.astype("<i8"), np.asarray(doc_idx, "<i8")):
        file.write(part.tobytes())


def dtype_code(dtype: np.dtype[Any]) -> int:
    """Return NeoX's code of a dtype."""
    little = dtype.newbyteorder("<")
    return next(code for code, known in DTYPES.items() if known == little)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
