r"""What a `.idx` says, checked once: the dtype, and where every sequence and document is.

GPT-NeoX's and Megatron's datasets are pairs of files. `.bin` holds nothing but the tokens, in
order. `.idx` says what they are, little endian and without any alignment (gpt-neox
`megatron/data/indexed_dataset.py`, class `MMapIndexedDataset`; Megatron-LM
`megatron/core/datasets/indexed_dataset.py`):

    offset        bytes  field
    0             9      magic "MMIDIDX\0\0"
    9             8      uint64 version, 1
    17            1      uint8 dtype code
    18            8      uint64 N, the number of sequences
    26            8      uint64 M, the length of doc_idx
    34            4N     int32 sizes, tokens of each sequence
    34 + 4N       8N     int64 pointers, byte offset of each sequence in .bin
    34 + 12N      8M     int64 doc_idx, 0 and then the number of sequences after each document
    34 + 12N + 8M N      int8 modes, in Megatron's multimodal datasets only
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.storage import Files, Prefix
from jaxneox.errors import UserError

MAGIC = b"MMIDIDX\x00\x00"
LEGACY_MAGIC = b"TNTIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
# NeoX's; in Megatron's files 6 is float64 and 7 float32.
DTYPES = {
    code: np.dtype(name).newbyteorder("<")
    for code, name in enumerate(("u1", "i1", "i2", "i4", "i8", "f4", "f8", "u2"), start=1)
}
CHUNK = 1 << 16  # numbers of an index that are checked at once, few enough for a CPU's cache


class Index:
    """The fields of a `.idx`, which agree with each other and with the size of the `.bin`.

    No number in it points outside the `.bin`. They stay in the (mapped) file and take no memory of
    their own.

    Attributes:
        dtype: of the tokens as stored.
        sizes: int32 [N], tokens of each sequence.
        pointers: int64 [N], where each sequence begins, a byte of the `.bin`.
        doc_idx: int64 [documents + 1], the first sequence of each document.
        documents_known: False if the file has no document bounds but the first: then each
            sequence is a document.
        total: the tokens of all sequences.

    Raises:
        UserError: with the file, the byte offset, what is there and what was expected.
    """

    def __init__(self, path: Prefix, bin_path: Prefix, files: Files) -> None:
        self._path, self._bin_path = path, bin_path
        self._data, self._bin_size = files.index, files.bin_size
        code, sequences, entries = self._read_header()
        at_pointers = HEADER.size + 4 * sequences
        at_doc_idx = at_pointers + 8 * sequences
        self.sizes: NDArray[np.int32] = np.frombuffer(self._data, "<i4", sequences, HEADER.size)
        self.pointers: NDArray[np.int64] = np.frombuffer(self._data, "<i8", sequences, at_pointers)
        self.doc_idx: NDArray[np.int64] = np.frombuffer(self._data, "<i8", entries, at_doc_idx)
        self.total = self._check_sizes()
        self.dtype = self._decide_dtype(code)
        self._check_pointers(at_pointers)
        # NeoX's merge_datasets.py forgets all document bounds but the first.
        self.documents_known = entries != 1 or not sequences or self.doc_idx[0] != 0
        if not self.documents_known:
            self.doc_idx = np.arange(sequences + 1)
        self._check_doc_idx(at_doc_idx)
        self._check_bin()

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.sizes)

    def header_and_sizes(self) -> memoryview:
        """Return the bytes from which all but the document bounds follows."""
        return self._data[: HEADER.size + self.sizes.nbytes]

    def _read_header(self) -> tuple[int, int, int]:
        """Read (dtype code, sequences, document bounds), which agree with the index's length."""
        where, index = self._path, self._data
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
        if sequences and len(index) == expected + sequences:
            raise UserError(
                f"{where}: {sequences} bytes of modes at offset {expected}: a multimodal dataset "
                "of Megatron's, expected text"
            )
        if len(index) != expected:
            raise UserError(
                f"{where}: {len(index)} bytes, but {expected} follow from the {sequences} sequences"
                f" and {entries} document bounds at offset 18; truncated or not a text dataset"
            )
        return code, sequences, entries

    def _check_sizes(self) -> int:
        """Check the sizes, and return their sum."""
        total = 0
        for at in range(0, len(self), CHUNK):
            sizes = self.sizes[at : at + CHUNK]
            if sizes.min() < 0:
                i = at + int(np.argmax(sizes < 0))
                raise UserError(
                    f"{self._path}: sequence {i} has size {self.sizes[i]} at offset "
                    f"{HEADER.size + 4 * i}, expected 0 or more"
                )
            total += int(sizes.sum(dtype=np.int64))
        return total

    def _decide_dtype(self, code: int) -> np.dtype[Any]:
        """Return NeoX's dtype of a code, unless the `.bin`'s size says that Megatron's is meant."""
        swapped = DTYPES[{6: 7, 7: 6}.get(code, code)]
        fits = self.total and self._bin_size == self.total * swapped.itemsize
        return swapped if fits else DTYPES[code]

    def _check_pointers(self, offset: int) -> None:
        """Check that each pointer follows from the one before it and its size; the first is 0.

        Differences may wrap around in int64, but only where the sizes sum to more bytes than any
        `.bin` has.
        """
        width = np.int64(self.dtype.itemsize)
        if len(self) and self.pointers[0] != 0:
            raise self._wrong_pointer(0, 0, offset)
        for at in range(0, len(self), CHUNK):
            pointers = self.pointers[at : at + CHUNK + 1]
            sizes = self.sizes[at : at + len(pointers) - 1]
            wrong = np.diff(pointers) != sizes * width
            if wrong.any():
                i = at + int(np.argmax(wrong))
                expected = int(self.pointers[i]) + int(self.sizes[i]) * int(width)
                raise self._wrong_pointer(i + 1, expected, offset)

    def _wrong_pointer(self, i: int, expected: int, offset: int) -> UserError:
        return UserError(
            f"{self._path}: offset {offset + 8 * i}: sequence {i} begins at byte "
            f"{self.pointers[i]} of the .bin, expected {expected} from the sizes before it"
        )

    def _check_doc_idx(self, offset: int) -> None:
        bounds = self.doc_idx
        if not len(bounds) or bounds[0] != 0 or bounds[-1] != len(self):
            shown = f"{bounds[0]} … {bounds[-1]}" if len(bounds) else "nothing"
            raise UserError(
                f"{self._path}: document bounds {shown} at offset {offset}, "
                f"expected 0 … {len(self)}"
            )
        for at in range(0, len(bounds), CHUNK):
            part = bounds[at : at + CHUNK + 1]
            falling = part[1:] < part[:-1]
            if falling.any():
                i = at + int(np.argmax(falling)) + 1
                raise UserError(
                    f"{self._path}: document bound {bounds[i]} at offset {offset + 8 * i} "
                    f"is below the one before, {bounds[i - 1]}"
                )

    def _check_bin(self) -> None:
        size, expected = self._bin_size, self.total * self.dtype.itemsize
        if size == expected:
            return
        what = "too long"
        if size < expected:
            whole = max(0, int(np.searchsorted(self.pointers, size, "right")) - 1)
            what = f"truncated, its first {whole} of {len(self)} sequences are whole"
        raise UserError(
            f"{self._bin_path}: {size} bytes, but {self._path.name} lists {self.total} "
            f"tokens of {self.dtype.itemsize} bytes, {expected} bytes: {what}; copy or preprocess "
            "it again"
        )
