"""2,000 damaged indices: each is read as before or refused with one line; nothing else happens."""

import pathlib
import random
import struct
import tracemalloc

import numpy as np
import pytest

from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.writer import write_index
from jaxneox.errors import UserError
from tests.fuzz.damage import HUGE, cut, flip, insert

SIZES = np.array([3, 1, 0, 4, 2, 5])
DOC_IDX = np.array([0, 1, 1, 3, 6])
HEADER_FIELDS = [("<Q", 9), ("<B", 17), ("<Q", 18), ("<Q", 26)]
LAST = 34 + 12 * len(SIZES) + 8 * len(DOC_IDX)


@pytest.mark.slow
def test_damaged_indices(tmp_path: pathlib.Path) -> None:
    rng = random.Random(5)
    prefix = tmp_path / "x"
    tokens = np.arange(SIZES.sum(), dtype="<u2")
    prefix.with_suffix(".bin").write_bytes(tokens.tobytes())
    with prefix.with_suffix(".idx").open("wb") as file:
        write_index(file, tokens.dtype, SIZES, DOC_IDX)
    good = prefix.with_suffix(".idx").read_bytes()
    assert len(good) == LAST
    read = refused = 0
    tracemalloc.start()
    for k in range(2000):
        damage = rng.choice([flip, cut, insert, huge, swap, shuffle])
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 3])):
            damage(data, rng)
        prefix.with_suffix(".idx").write_bytes(data)
        try:
            dataset = IndexedDataset(prefix)
        except UserError as error:
            line = str(error)
            assert str(prefix) in line and "\n" not in line and len(line) < 500, (k, line)
            refused += 1
        else:
            check_within(dataset, tokens)
            read += 1
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert refused > 1000 and read > 10


def check_within(dataset: IndexedDataset, tokens: np.ndarray) -> None:
    """All the tokens, each once and in order: only their dtype or the document bounds differ."""
    pieces = [dataset.get(i).tobytes() for i in range(len(dataset))]
    assert b"".join(pieces) == tokens.tobytes()
    assert dataset.dtype.itemsize == 2 and dataset.dtype.kind in "iu"
    bounds = dataset.doc_idx
    assert bounds[0] == 0 and bounds[-1] == len(dataset) and (np.diff(bounds) >= 0).all()
    assert dataset.content["tokens"] == dataset.total


def huge(data: bytearray, rng: random.Random) -> None:
    kind, at = rng.choice([*HEADER_FIELDS, ("<I", 34 + 4 * rng.randrange(6)),
                           ("<Q", 58 + 8 * rng.randrange(11))])  # fmt: skip
    if at + struct.calcsize(kind) <= len(data):
        limit = 256 ** struct.calcsize(kind)
        struct.pack_into(kind, data, at, (rng.choice(HUGE) + rng.randrange(-1, 2)) % limit)


def swap(data: bytearray, rng: random.Random) -> None:
    """Two neighbouring numbers of one field, or N and M."""
    kind, at = rng.choice([("<Q", 18), ("<i", 34 + 4 * rng.randrange(5)),
                           ("<q", 58 + 8 * rng.randrange(10))])  # fmt: skip
    width = struct.calcsize(kind)
    if at + 2 * width <= len(data):
        data[at : at + 2 * width] = data[at + width : at + 2 * width] + data[at : at + width]


def shuffle(data: bytearray, rng: random.Random) -> None:
    """Sizes that sum to the same, or pointers and bounds from another order."""
    begin, count, width = rng.choice([(34, 6, 4), (58, 6, 8), (106, 5, 8)])
    if begin + count * width <= len(data):
        parts = [data[begin + k * width : begin + (k + 1) * width] for k in range(count)]
        rng.shuffle(parts)
        data[begin : begin + count * width] = b"".join(parts)
