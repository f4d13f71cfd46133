"""`.bin/.idx`: what is written is read, NeoX's own files are, and damage is named."""

import hashlib
import pathlib
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxneox.data.indexed import DTYPES, IndexedDataset, token_dtype
from jaxneox.data.writer import IndexedWriter
from jaxneox.errors import UserError

DOCUMENTS = [[5, 6, 7], [8], [9, 10, 11, 12]]


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> pathlib.Path:
    return write(tmp_path / "x", DOCUMENTS)


def write(prefix: pathlib.Path, documents: list[list[int]], dtype: str = "uint16") -> pathlib.Path:
    with IndexedWriter(prefix, dtype) as out:
        for document in documents:
            out.add(document)
    return prefix


@given(st.lists(st.lists(st.integers(0, 100))), st.sampled_from(sorted(DTYPES)))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_written_is_read(tmp_path: pathlib.Path, documents: list[list[int]], code: int) -> None:
    dataset = IndexedDataset(write(tmp_path / "x", documents, DTYPES[code].name))
    assert dataset.dtype == DTYPES[code]
    assert [dataset.get(i).tolist() for i in range(len(dataset))] == documents
    assert dataset.doc_idx.tolist() == list(range(len(documents) + 1))
    assert dataset.sizes.tolist() == [len(document) for document in documents]


def test_bytes_are_those_of_the_format(prefix: pathlib.Path) -> None:
    def ints(size: int, *values: int) -> bytes:
        return b"".join(value.to_bytes(size, "little") for value in values)

    assert prefix.with_suffix(".bin").read_bytes() == ints(2, *range(5, 13))
    assert prefix.with_suffix(".idx").read_bytes() == (
        b"MMIDIDX\0\0" + ints(8, 1) + ints(1, 8) + ints(8, 3, 4)
        + ints(4, 3, 1, 4) + ints(8, 0, 6, 8) + ints(8, 0, 1, 2, 3)
    )  # fmt: skip


def test_neox_files_are_rewritten_byte_for_byte(
    shared: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = shared / "golden" / "data" / "corpora"
    for source in sorted(folder.glob("neox_*.idx")):
        dataset = IndexedDataset(source)
        with IndexedWriter(tmp_path / source.stem, dataset.dtype) as out:
            for i in range(len(dataset)):
                out.add(dataset.get(i))
        for file in (source, source.with_suffix(".bin")):
            assert digest(tmp_path / file.name) == digest(file), file.name


def test_part_of_a_document(prefix: pathlib.Path) -> None:
    dataset = IndexedDataset(prefix)
    assert dataset.get(2, 1, 2).tolist() == [10, 11]
    assert dataset.get(2, 4).tolist() == []
    for i, offset, length in [(3, 0, None), (-1, 0, None), (1, 0, 2), (1, 2, None), (2, -1, 1)]:
        with pytest.raises(IndexError):
            dataset.get(i, offset, length)


@pytest.mark.parametrize("name", ["x", "x.bin", "x.idx"])
def test_prefix_with_or_without_suffix(prefix: pathlib.Path, name: str) -> None:
    assert len(IndexedDataset(prefix.with_name(name))) == 3


def test_dots_in_the_name_are_kept(tmp_path: pathlib.Path) -> None:
    assert len(IndexedDataset(write(tmp_path / "v1.5.text", DOCUMENTS))) == 3


# offset in .idx, new bytes, what the one line must say
DAMAGE = [
    (0, b"PK", "begins with"),
    (0, b"TNTIDX\0\0", "TNTIDX"),
    (9, b"\2", "version 2 at offset 9"),
    (17, b"\0", "dtype code 0 at offset 17"),
    (18, b"\4", "bytes, but"),
    (25, b"\xff", "bytes, but"),
    (34, b"\xff\xff\xff\xff", "sequence 0 has size -1 at offset 34"),
    (34, b"\4", "sequence 1 begins at byte 6 of the .bin says offset 54, expected 8"),
    (42, b"\5", "18 bytes: truncated"),
    (42, b"\3", "14 bytes: too long"),
    (54, b"\7", "offset 54, expected 6"),
    (70, b"\1", "document bounds 1 … 3 at offset 70, expected 0 … 3"),
    (94, b"\2", "document bounds 0 … 2 at offset 70, expected 0 … 3"),
    (78, b"\5", "document bound 2 at offset 86 is below the one before, 5"),
]


@pytest.mark.parametrize(("offset", "new", "message"), DAMAGE)
def test_damage_is_named(prefix: pathlib.Path, offset: int, new: bytes, message: str) -> None:
    index = prefix.with_suffix(".idx")
    data = bytearray(index.read_bytes())
    data[offset : offset + len(new)] = new
    index.write_bytes(data)
    with pytest.raises(UserError) as caught:
        IndexedDataset(prefix)
    assert message in str(caught.value) and str(prefix) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_corruption_is_read_beyond_the_file(tmp_path: pathlib.Path) -> None:
    rng = random.Random(0)
    good = write(tmp_path / "good", DOCUMENTS).with_suffix(".idx").read_bytes()
    prefix = write(tmp_path / "x", DOCUMENTS)
    for _ in range(300):
        data = bytearray(good[: rng.choice([len(good), rng.randrange(len(good))])])
        for _ in range(rng.randrange(1, 4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        prefix.with_suffix(".idx").write_bytes(data)
        try:
            dataset = IndexedDataset(prefix)
        except UserError:
            continue
        # What is left is another dtype of the same width, or other bounds within the file.
        assert sum(len(dataset.get(i)) for i in range(len(dataset))) == 8


@pytest.mark.parametrize("missing", [".bin", ".idx"])
def test_missing_half(prefix: pathlib.Path, missing: str) -> None:
    prefix.with_suffix(missing).unlink()
    with pytest.raises(UserError, match=rf"x\{missing}: no such file"):
        IndexedDataset(prefix)


def test_failed_writing_leaves_what_was_there(prefix: pathlib.Path) -> None:
    with pytest.raises(ZeroDivisionError), IndexedWriter(prefix, "uint16") as out:
        out.add([1])
        _ = 1 // 0
    assert IndexedDataset(prefix).get(1).tolist() == [8]
    assert {path.name for path in prefix.parent.iterdir()} == {"x.bin", "x.idx"}


def test_token_that_does_not_fit(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="document 0 has tokens from 1 to 70000"):
        write(tmp_path / "x", [[1, 70000]])


def test_content_hash_sees_index_and_tokens(tmp_path: pathlib.Path) -> None:
    variants = [DOCUMENTS, [[5, 6], [7, 8], [9, 10, 11, 12]], [[5, 6, 7], [8], [9, 10, 11, 13]]]
    hashes = [
        IndexedDataset(write(tmp_path / f"{k}", documents)).content_hash()
        for k, documents in enumerate([*variants, DOCUMENTS])
    ]
    assert len(set(hashes)) == 3 and hashes[0] == hashes[3]


def test_longer_index(prefix: pathlib.Path) -> None:
    with prefix.with_suffix(".idx").open("ab") as index:
        index.write(b"\0\0\0")  # the modes of a multimodal dataset stand here
    with pytest.raises(UserError, match="105 bytes, but 102 follow"):
        IndexedDataset(prefix)


def test_float_codes_are_those_of_neox() -> None:
    assert [DTYPES[code].name for code in (6, 7)] == ["float32", "float64"]


def test_dtype_by_vocabulary() -> None:
    assert token_dtype(65499) == np.uint16
    assert token_dtype(65500) == np.int32


def digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
