"""`.bin/.idx`: what is written is read, NeoX's own files are, and damage is named."""

import hashlib
import pathlib
import re
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxneox.data.index import CHUNK
from jaxneox.data.indexed import DTYPES, IndexedDataset, token_dtype
from jaxneox.data.writer import IndexedWriter, write_index
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
    (34, b"\4", "offset 54: sequence 1 begins at byte 6 of the .bin, expected 8"),
    (42, b"\5", "18 bytes: truncated"),
    (42, b"\3", "14 bytes: too long"),
    (54, b"\7", "offset 54: sequence 1 begins at byte 7 of the .bin, expected 6"),
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


@pytest.mark.parametrize("at", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK])
def test_damage_is_named_wherever_it_is(tmp_path: pathlib.Path, at: int) -> None:
    """The index is checked in parts: none of it is left out, and none counted wrongly."""
    N = 2 * CHUNK + 1
    prefix = tmp_path / "x"
    prefix.with_suffix(".bin").write_bytes(bytes(2 * N))
    with prefix.with_suffix(".idx").open("wb") as file:
        write_index(file, np.dtype("u2"), np.ones(N), np.arange(N + 1))
    good = prefix.with_suffix(".idx").read_bytes()
    places = {
        f"sequence {at} has size -1 at offset {34 + 4 * at},": (34 + 4 * at, "<i", -1),
        f"offset {34 + 4 * N + 8 * at}: sequence {at} begins at byte 7 of the .bin, "
        f"expected {2 * at} ": (34 + 4 * N + 8 * at, "<q", 7),
        f"document bound {at} at offset {34 + 12 * N + 8 * at} is below": (
            34 + 12 * N + 8 * (at - 1), "<q", N,
        ),
    }  # fmt: skip
    for message, (offset, kind, value) in places.items():
        data = bytearray(good)
        struct.pack_into(kind, data, offset, value)
        prefix.with_suffix(".idx").write_bytes(data)
        with pytest.raises(UserError, match=re.escape(message)):
            IndexedDataset(prefix)


def test_pointers_that_are_all_moved(tmp_path: pathlib.Path) -> None:
    for documents in ([[5]], DOCUMENTS):
        N = len(documents)
        prefix = write(tmp_path / "x", documents)
        data = bytearray(prefix.with_suffix(".idx").read_bytes())
        moved = np.frombuffer(data, "<i8", N, 34 + 4 * N) + 2
        data[34 + 4 * N : 34 + 12 * N] = moved.tobytes()
        prefix.with_suffix(".idx").write_bytes(data)
        with pytest.raises(
            UserError, match=f"offset {34 + 4 * N}: .* begins at byte 2 .*, expected 0"
        ):
            IndexedDataset(prefix)


def test_truncated_tail_says_what_is_left(prefix: pathlib.Path) -> None:
    for size, whole in [(0, 0), (5, 0), (6, 1), (7, 1), (8, 2), (15, 2)]:
        prefix.with_suffix(".bin").write_bytes(bytes(size))
        with pytest.raises(UserError, match=f"truncated, its first {whole} of 3 sequences are"):
            IndexedDataset(prefix)


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


def test_runs_of_tokens(prefix: pathlib.Path) -> None:
    dataset = IndexedDataset(prefix)
    assert dataset.total == 8
    assert dataset.begins(slice(None)).tolist() == [0, 3, 4]
    assert dataset.begins(np.array([2, 0, 2])).tolist() == [4, 0, 4]
    assert [tokens.tolist() for tokens in dataset.ranges([2, 7, 8], [3, 1, 0])] == [
        [7, 8, 9],
        [12],
        [],
    ]
    for begin, length in [(8, 1), (-1, 1), (0, 9), (0, -1), (1, 2**63 - 1), (2**63 - 1, 1)]:
        with pytest.raises(IndexError, match=f"{length} tokens from {begin} on of 8 in "):
            dataset.ranges([0, begin], [1, length])


def test_content_names_the_bytes_that_differ(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def content(documents: list[list[int]]) -> dict[str, object]:
        return IndexedDataset(write(tmp_path / "x", documents)).content

    monkeypatch.setattr("jaxneox.data.indexed.BLOCKS", 4)
    monkeypatch.setattr("jaxneox.data.indexed.HASHED", 2)
    whole = content(DOCUMENTS)
    assert list(whole) == ["tokens", "sizes"] + [f"bytes {k} to {k + 4}" for k in (0, 4, 8, 12)]
    assert whole == content(DOCUMENTS) and whole["tokens"] == 8

    def differing(documents: list[list[int]]) -> list[str]:
        return [key for key, value in content(documents).items() if value != whole[key]]

    assert differing([[5, 6], [7, 8], [9, 10, 11, 12]]) == ["sizes"]
    assert differing([[5, 6, 7], [8], [99, 10, 11, 12]]) == ["bytes 8 to 12"]
    assert differing([[5, 6, 7], [8], [9, 99, 11, 12]]) == []  # beyond the first bytes of a block


def test_multimodal_is_refused_by_name(prefix: pathlib.Path) -> None:
    with prefix.with_suffix(".idx").open("ab") as index:
        index.write(b"\0\1\0")
    with pytest.raises(UserError, match="3 bytes of modes at offset 102: a multimodal dataset"):
        IndexedDataset(prefix)


def test_longer_index(prefix: pathlib.Path) -> None:
    with prefix.with_suffix(".idx").open("ab") as index:
        index.write(b"\0\0")
    with pytest.raises(UserError, match="104 bytes, but 102 follow"):
        IndexedDataset(prefix)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float_codes_of_both_programs(tmp_path: pathlib.Path, dtype: str) -> None:
    """6 and 7 are NeoX's float32 and float64, and Megatron's float64 and float32."""
    prefix = write(tmp_path / "x", [[1, 2], [3]], dtype)
    neox = prefix.with_suffix(".idx").read_bytes()
    code = {"float32": 6, "float64": 7}[dtype]
    assert neox[17] == code
    prefix.with_suffix(".idx").write_bytes(neox[:17] + bytes([13 - code]) + neox[18:])
    for _ in range(2):
        dataset = IndexedDataset(prefix)
        assert dataset.dtype == dtype and dataset.get(1).tolist() == [3.0]
        prefix.with_suffix(".idx").write_bytes(neox)


def test_documents_of_no_and_of_several_sequences(
    shared: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    golden = IndexedDataset(shared / "golden/data/corpora/mcore_corpus_b_text_document")
    empty = np.flatnonzero(np.diff(golden.doc_idx) == 0)
    assert empty.tolist() == [3] and len(golden) == 287 and len(golden.doc_idx) == 289
    (tmp_path / "x.bin").write_bytes(bytes(12))
    with (tmp_path / "x.idx").open("wb") as file:
        write_index(file, np.dtype("u2"), np.array([1, 2, 3]), np.array([0, 2, 2, 3]))
    assert IndexedDataset(tmp_path / "x").doc_idx.tolist() == [0, 2, 2, 3]


def test_documents_that_were_lost_are_the_sequences(prefix: pathlib.Path) -> None:
    """As after NeoX's tools/datasets/merge_datasets.py, which keeps only the first bound."""
    sizes = IndexedDataset(prefix).sizes.copy()
    with prefix.with_suffix(".idx").open("wb") as file:
        write_index(file, np.dtype("u2"), sizes, np.array([0]))
    dataset = IndexedDataset(prefix)
    assert dataset.doc_idx.tolist() == [0, 1, 2, 3] and not dataset.documents_known


def test_dtype_by_vocabulary() -> None:
    assert token_dtype(65499) == np.uint16
    assert token_dtype(65500) == np.int32


def digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
