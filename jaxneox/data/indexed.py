"""The tokens of a `.bin/.idx` dataset, local or behind a URL, read as they are asked for.

The format is described in `index`.
"""

import hashlib
import os
import pathlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxneox.data.index import DTYPES, HEADER, MAGIC, VERSION, Index
from jaxneox.data.storage import Files, LocalFiles, Prefix, Url, is_url
from jaxneox.errors import UserError

__all__ = [
    "DTYPES",
    "HEADER",
    "MAGIC",
    "VERSION",
    "IndexedDataset",
    "dataset_prefix",
    "locate",
    "token_dtype",
]

BLOCKS, HASHED = 64, 1 << 20  # the .bin is known by this many bytes of each of so many blocks


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the narrowest dtype that NeoX's tools give to tokens of a vocabulary (not padded)."""
    return np.dtype(np.uint16 if vocab_size < 65500 else np.int32)


def dataset_prefix(path: str | os.PathLike[str]) -> pathlib.Path:
    """Return the local prefix `data/x` of `data/x`, `data/x.bin` and `data/x.idx`."""
    if is_url(path):
        raise UserError(f"{path}: expected a local path, such as that of a copy of it")
    path = pathlib.Path(path)
    return path.with_suffix("") if path.suffix in (".bin", ".idx") else path


def locate(path: str | os.PathLike[str] | Url) -> Prefix:
    """Return the prefix of a dataset that is only read, and may be behind a URL."""
    if isinstance(path, Url):
        return path
    if is_url(path):
        return Url(str(path).removesuffix(".bin").removesuffix(".idx"))
    return dataset_prefix(path)


class IndexedDataset:
    """The sequences of one `.bin/.idx` pair.

    The two files are held against each other when they are opened, so that no read can leave the
    `.bin`.

    Attributes:
        prefix: a path or a `Url`, without `.bin` and `.idx`; `bin_path` and `idx_path` have them.
        dtype: of the tokens as stored.
        sizes: int32 [N], tokens of each sequence.
        doc_idx: int64 [documents + 1], the first sequence of each document; a document is one
            sequence, but of several, or of none, in some of Megatron's datasets.
        documents_known: False if the `.idx` has lost the documents; each sequence is one then.
        total: the tokens of all sequences.
        bin_size: bytes of the `.bin`; `idx_size` are those of the `.idx`.

    Raises:
        UserError: as `Index`.
    """

    def __init__(self, prefix: str | os.PathLike[str] | Url) -> None:
        self.prefix = locate(prefix)
        self.bin_path = self.prefix.with_name(self.prefix.name + ".bin")
        self.idx_path = self.prefix.with_name(self.prefix.name + ".idx")
        self._files = _open(self.bin_path, self.idx_path)
        self._index = Index(self.idx_path, self.bin_path, self._files)
        self.dtype = self._index.dtype
        self.sizes = self._index.sizes
        self.doc_idx = self._index.doc_idx
        self.documents_known = self._index.documents_known
        self.total = self._index.total
        self.bin_size, self.idx_size = self._files.bin_size, len(self._files.index)

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.sizes)

    def begins(self, sequences: NDArray[np.integer[Any]] | slice) -> NDArray[np.int64]:
        """Find where in all tokens of the `.bin` each of these sequences begins, int64."""
        return self._index.pointers[sequences] // self.dtype.itemsize

    def ranges(self, begins: ArrayLike, lengths: ArrayLike) -> Iterator[NDArray[Any]]:
        """Read ranges of tokens in the stored dtype: `lengths` from `begins` on, of all tokens.

        They are views if the dataset is local; if it is not, one request is made for many of them.

        Raises:
            IndexError: a range leaves the dataset.
        """
        first, count = np.asarray(begins, np.int64), np.asarray(lengths, np.int64)
        outside = (first < 0) | (count < 0) | (count > self.total - first)
        if outside.any():
            k = int(np.argmax(outside))
            raise IndexError(
                f"{count[k]} tokens from {first[k]} on of {self.total} in {self.prefix}"
            )
        width = self.dtype.itemsize
        starts, stops = (first * width).tolist(), ((first + count) * width).tolist()
        return (np.frombuffer(data, self.dtype) for data in self._files.ranges(starts, stops))

    def get(self, i: int, offset: int = 0, length: int | None = None) -> NDArray[Any]:
        """Read tokens `offset` to `offset + length` of sequence i, in the stored dtype."""
        if not 0 <= i < len(self):
            raise IndexError(f"sequence {i} of {len(self)} in {self.prefix}")
        size = int(self.sizes[i])
        length = size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > size:
            raise IndexError(f"{length} tokens from {offset} on of {size} in sequence {i}")
        (tokens,) = self.ranges(self.begins(slice(i, i + 1)) + offset, [length])
        return tokens

    @cached_property
    def content(self) -> dict[str, Any]:
        """A fingerprint that tells this data from other data, cheap at any size.

        It has the number of tokens; SHA-256 of the header and the sizes; and for each of at most 64
        equal blocks of the `.bin` 16 digits of the SHA-256 of its first MiB, which is all of a file
        of up to 64 MiB. If two of these differ, their keys name the bytes.
        """
        sizes = hashlib.sha256(self._index.header_and_sizes()).hexdigest()
        content: dict[str, Any] = {"tokens": self.total, "sizes": sizes}
        size = self.bin_size
        block = max(HASHED, -(-size // BLOCKS))
        starts = range(0, size, block)
        heads = self._files.ranges(starts, [min(start + HASHED, size) for start in starts])
        for start, head in zip(starts, heads, strict=True):
            digest = hashlib.sha256(head).hexdigest()[:16]
            content[f"bytes {start} to {min(start + block, size)}"] = digest
        return content


def _open(bin_path: Prefix, idx_path: Prefix) -> Files:
    if isinstance(bin_path, pathlib.Path) and isinstance(idx_path, pathlib.Path):
        return LocalFiles(bin_path, idx_path)
    from jaxneox.data.remote import RemoteFiles  # fsspec takes its time to be imported

    return RemoteFiles(str(bin_path), str(idx_path))
