"""GPT-NeoX's `.bin/.idx` datasets: tokens of many documents, memory-mapped.

`.bin` holds nothing but the tokens, in order. `.idx` says what they are, little endian and
without any alignment (gpt-neox `megatron/data/indexed_dataset.py`, class `MMapIndexedDataset`):

    offset        bytes  field
    0             9      magic "MMIDIDX\\0\\0"
    9             8      uint64 version, 1
    17            1      uint8 dtype code
    18            8      uint64 N, the number of sequences
    26            8      uint64 M, the length of doc_idx
    34            4N     int32 sizes, tokens of each sequence
    34 + 4N       8N     int64 pointers, byte offset of each sequence in .bin
    34 + 12N      8M     int64 doc_idx, 0 and then the number of sequences after each document
"""

import hashlib
import mmap
import os
import pathlib
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.errors import UserError

MAGIC = b"MMIDIDX\x00\x00"
LEGACY_MAGIC = b"TNTIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
# Megatron-core swaps the codes 6 and 7.
DTYPES = {
    code: np.dtype(name).newbyteorder("<")
    for code, name in enumerate(("u1", "i1", "i2", "i4", "i8", "f4", "f8", "u2"), start=1)
}
HASHED_ENDS = 32 << 20  # a longer file is known by its size and this much of each end


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The narrowest dtype that NeoX's tools give to tokens of a vocabulary (not padded)."""
    return np.dtype(np.uint16 if vocab_size < 65500 else np.int32)


def dataset_prefix(path: str | os.PathLike[str]) -> pathlib.Path:
    """`data/x`, `data/x.bin` and `data/x.idx` are all the dataset `data/x`."""
    path = pathlib.Path(path)
    return path.with_suffix("") if path.suffix in (".bin", ".idx") else path


class IndexedDataset:
    """The sequences of one `.bin/.idx` pair, read from disk as they are asked for.

    Everything that the two files say of each other is checked here, once, so that no read can
    leave the file. Raises UserError with the file, the byte offset, what is there and what was
    expected.

    Attributes:
        prefix: the path without `.bin` and `.idx`.
        dtype: of the tokens as stored.
        sizes: int32 [N], tokens of each sequence.
        starts: int64 [N + 1], where each sequence begins among all tokens.
        doc_idx: int64 [documents + 1], the first sequence of each document.
        tokens: [sum of sizes], a read-only view of all of `.bin`.
    """

    def __init__(self, prefix: str | os.PathLike[str]) -> None:
        self.prefix = dataset_prefix(prefix)
        self.bin_path = self.prefix.with_name(self.prefix.name + ".bin")
        self.idx_path = self.prefix.with_name(self.prefix.name + ".idx")
        for path in (self.idx_path, self.bin_path):
            if not path.is_file():
                raise UserError(
                    f"{path}: no such file; a dataset is a pair PREFIX.bin and PREFIX.idx, and "
                    "text must end in .txt or .jsonl or be a folder of such files"
                )
        index = _mapped(self.idx_path)
        self.dtype, sequences, entries = self._read_header(index)
        at_pointers = HEADER.size + 4 * sequences
        at_doc_idx = at_pointers + 8 * sequences
        self.sizes = np.frombuffer(index, "<i4", sequences, HEADER.size)
        pointers = np.frombuffer(index, "<i8", sequences, at_pointers)
        self.doc_idx = np.frombuffer(index, "<i8", entries, at_doc_idx)
        self.starts = self._check_sizes()
        self._check_pointers(pointers, at_pointers)
        self._check_doc_idx(at_doc_idx)
        self.tokens = self._map_tokens()

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.sizes)

    def get(self, i: int, offset: int = 0, length: int | None = None) -> NDArray[Any]:
        """Tokens `offset` to `offset + length` of sequence i; a view in the stored dtype."""
        if not 0 <= i < len(self):
            raise IndexError(f"sequence {i} of {len(self)} in {self.prefix}")
        size = int(self.sizes[i])
        length = size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > size:
            raise IndexError(f"{length} tokens from {offset} on of {size} in sequence {i}")
        start = int(self.starts[i]) + offset
        return self.tokens[start : start + length]

    @property
    def total(self) -> int:
        return int(self.starts[-1])

    def begins(self, sequences: Any) -> NDArray[np.int64]:
        return self.starts[:-1][sequences]

    def pieces(self, begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> Any:
        for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True):
            if not 0 <= begin <= begin + length <= len(self.tokens):
                raise IndexError(begin, length)
            yield self.tokens[begin : begin + length]

    def content(self) -> dict[str, Any]:
        return {
            "tokens": self.total,
            "sizes": hashlib.sha256(np.ascontiguousarray(self.sizes)).hexdigest(),
            "bytes": self.content_hash(),
        }

    def content_hash(self) -> str:
        """SHA-256 of the index and of the ends of the tokens: cheap, and another for other data."""
        digest = hashlib.sha256()
        for path, ends in ((self.idx_path, HASHED_ENDS), (self.bin_path, 1 << 20)):
            data = _mapped(path)
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data if len(data) <= 2 * ends else bytes(data[:ends]))
            digest.update(b"" if len(data) <= 2 * ends else bytes(data[-ends:]))
        return digest.hexdigest()

    def _read_header(self, index: memoryview) -> tuple[np.dtype[Any], int, int]:
        where = self.idx_path
        if bytes(index[: len(LEGACY_MAGIC)]) == LEGACY_MAGIC:
            raise UserError(f"{where}: the old TNTIDX format; preprocess again with data-impl mmap")
        if len(index) < HEADER.size:
            raise UserError(
                f"{where}: truncated, {len(index)} bytes where the header alone has {HEADER.size}"
            )
        magic, version, code, sequences, entries = HEADER.unpack_from(index)
        if magic != MAGIC:
            raise UserError(f"{where}: not an index, it begins with {magic!r} and not {MAGIC!r}")
        if version != VERSION:
            raise UserError(f"{where}: version {version} at offset 9, expected {VERSION}")
        if code not in DTYPES:
            raise UserError(f"{where}: dtype code {code} at offset 17, expected 1 to {len(DTYPES)}")
        expected = HEADER.size + 12 * sequences + 8 * entries
        if len(index) != expected:
            raise UserError(
                f"{where}: {len(index)} bytes, but {expected} follow from the {sequences} sequences"
                f" and {entries} document bounds at offset 18; truncated or not a text dataset"
            )
        return DTYPES[code], sequences, entries

    def _check_sizes(self) -> NDArray[np.int64]:
        negative = np.flatnonzero(self.sizes < 0)
        if negative.size:
            i = int(negative[0])
            raise UserError(
                f"{self.idx_path}: sequence {i} has size {self.sizes[i]} at offset "
                f"{HEADER.size + 4 * i}, expected 0 or more"
            )
        starts = np.zeros(len(self.sizes) + 1, np.int64)
        np.cumsum(self.sizes, dtype=np.int64, out=starts[1:])
        return starts

    def _check_pointers(self, pointers: NDArray[np.int64], offset: int) -> None:
        wrong = np.flatnonzero(pointers != self.starts[:-1] * self.dtype.itemsize)
        if wrong.size:
            i = int(wrong[0])
            raise UserError(
                f"{self.idx_path}: sequence {i} begins at byte {pointers[i]} of the .bin says "
                f"offset {offset + 8 * i}, expected {self.starts[i] * self.dtype.itemsize} "
                "from the sizes before it"
            )

    def _check_doc_idx(self, offset: int) -> None:
        bounds = self.doc_idx
        if not len(bounds) or bounds[0] != 0 or bounds[-1] != len(self):
            found = f"{bounds[0]} … {bounds[-1]}" if len(bounds) else "nothing"
            raise UserError(
                f"{self.idx_path}: document bounds {found} at offset {offset}, "
                f"expected 0 … {len(self)}"
            )
        falling = np.flatnonzero(bounds[1:] < bounds[:-1])
        if falling.size:
            i = int(falling[0]) + 1
            raise UserError(
                f"{self.idx_path}: document bound {bounds[i]} at offset {offset + 8 * i} "
                f"is below the one before, {bounds[i - 1]}"
            )

    def _map_tokens(self) -> NDArray[Any]:
        found = self.bin_path.stat().st_size
        expected = int(self.starts[-1]) * self.dtype.itemsize
        if found != expected:
            raise UserError(
                f"{self.bin_path}: {found} bytes, but {self.idx_path.name} speaks of "
                f"{self.starts[-1]} tokens of {self.dtype.itemsize} bytes, {expected} bytes: "
                f"{'truncated' if found < expected else 'too long'}, copy or preprocess it again"
            )
        return np.frombuffer(_mapped(self.bin_path), self.dtype)


def _mapped(path: pathlib.Path) -> memoryview:
    """A file's bytes without reading them; an empty file cannot be mapped and needs not be."""
    if not path.stat().st_size:
        return memoryview(b"")
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
