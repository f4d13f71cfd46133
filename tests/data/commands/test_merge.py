"""`merge` gives the bytes of the whole written at once, and NeoX's where NeoX's are right."""

import errno
import hashlib
import os
import pathlib
import subprocess
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxneox.data.commands import merge, scan
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.writer import write_index
from tests.data.commands.calls import call, write

NEOX = [
    "6b0bc0e3394af91d234c6a4145f020fa54b6f8a5eed72cf75fd8ffa8b36b51bc",
    "b555a758edb91876b266f5bc51f5ace728bf68247cc0916a76faf151a1bf0bb3",
]
A = [[[5, 6, 7], [8]], [], [[9]]]
B = [[[]], [[1, 2]], []]

document = st.lists(st.lists(st.integers(0, 99), max_size=3), max_size=3)


def read(prefix: pathlib.Path) -> list[list[list[int]]]:
    dataset = IndexedDataset(prefix)
    bounds = dataset.doc_idx.tolist()
    return [[dataset.get(i).tolist() for i in range(*bound)] for bound in pairwise(bounds)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "CHUNK", 3)


@given(st.lists(st.lists(document, max_size=4), min_size=1, max_size=4))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_documents_one_after_the_other(
    tmp_path: pathlib.Path, parts: list[list[list[list[int]]]]
) -> None:
    datasets = [
        IndexedDataset(write(tmp_path / f"{k}", documents)) for k, documents in enumerate(parts)
    ]
    merge.write(tmp_path / "out", datasets)
    whole = [document for documents in parts for document in documents]
    assert read(tmp_path / "out") == whole
    expected = write(tmp_path / "expected", whole)
    for suffix in (".bin", ".idx"):
        written = (tmp_path / f"out{suffix}").read_bytes()
        assert written == expected.with_suffix(suffix).read_bytes()


@pytest.mark.slow
def test_command(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a", A), write(tmp_path / "b", B)
    out = tmp_path / "out" / "v1.5"
    out.parent.mkdir()
    assert call(capsys, "merge", out, a, f"{b}.idx", a) == (
        0, [f"{out}: 3 datasets, 9 documents, 12 tokens"], "",
    )  # fmt: skip
    assert read(out) == [*A, *B, *A]
    assert sorted(p.name for p in out.parent.iterdir()) == ["v1.5.bin", "v1.5.idx", "v1.5.sha256"]
    subprocess.run(["sha256sum", "--check", "--quiet", "v1.5.sha256"], cwd=out.parent, check=True)


def test_folder_is_sorted(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for k in (3, 1, 4, 10, 5, 9, 2, 6):
        write(tmp_path / "in" / f"{k}", [[[k]]])
    assert call(capsys, "merge", tmp_path / "out", tmp_path / "in", tmp_path / "in" / "3").code == 0
    assert read(tmp_path / "out") == [[[k]] for k in (1, 10, 2, 3, 4, 5, 6, 9, 3)]
    (tmp_path / "in" / "2.bin").unlink()
    line = call(capsys, "merge", tmp_path / "other", tmp_path / "in").refusal()
    assert line.startswith(f"{tmp_path}/in/2.bin: no such file")


def test_documents_that_neox_lost(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What its own merge has made is a document for each sequence, as it is when it is read."""
    prefix = write(tmp_path / "a", A)
    with prefix.with_suffix(".idx").open("wb") as file:
        write_index(file, np.dtype("u2"), np.array([3, 1, 1]), np.array([0]))
    assert call(capsys, "merge", tmp_path / "out", prefix, prefix).code == 0
    assert read(tmp_path / "out") == [[[5, 6, 7]], [[8]], [[9]]] * 2


def test_refusals(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, wide = write(tmp_path / "a", A), write(tmp_path / "wide", A, "int32")
    label = write(tmp_path / "x_label_document", A, "int32")
    (tmp_path / "empty").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    def refusal(*words: object) -> str:
        return call(capsys, "merge", *words).refusal()

    out = tmp_path / "out"
    line = refusal(out, a, wide)
    assert line.startswith(f"{wide}: holds int32, {a} uint16; merge only what one tokenizer")
    assert refusal(out, wide, label).endswith("text and labels, merge them apart")
    assert refusal(out, tmp_path / "empty") == (
        f"{tmp_path}/empty: a folder without .bin/.idx datasets"
    )
    assert refusal(tmp_path / "no" / "out", a) == f"{tmp_path}/no: no such folder, make it first"
    assert refusal(a, wide) == f"{a}.bin: exists; take another name, or --overwrite"
    assert refusal(a, a, "--overwrite").startswith(f"{a}: is among what is to be merged")
    assert "expected a local path" in refusal("s3://b/x", a)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_overwrite(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, out = write(tmp_path / "a", A), write(tmp_path / "out", B)
    assert call(capsys, "merge", out, a, "--overwrite").code == 0
    assert read(out) == A


def test_full_disk_leaves_what_was_there(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, out = write(tmp_path / "a", A), write(tmp_path / "out", B)
    digest = hashlib.sha256((tmp_path / "out.idx").read_bytes()).digest()

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(merge, "write_index", full)
    line = call(capsys, "merge", out, a, "--overwrite").refusal()
    assert line == f"{out}: cannot be written (No space left on device)"
    assert read(out) == B and hashlib.sha256((tmp_path / "out.idx").read_bytes()).digest() == digest
    assert {p.name for p in tmp_path.iterdir()} == {"a.bin", "a.idx", "out.bin", "out.idx"}


def test_golden(
    shared: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The SHA-256 of what NeoX's merge_datasets.py made of these, but for its lost documents."""
    scan.CHUNK = 1 << 10
    corpora = shared / "golden" / "data" / "corpora"
    names = [
        f"{name}_text_document" for name in ("mcore_corpus_b", "neox_corpus_a", "neox_corpus_b")
    ]
    assert call(capsys, "merge", tmp_path / "out", *(corpora / name for name in names)).code == 0
    tokens, index = ((tmp_path / f"out{s}").read_bytes() for s in (".bin", ".idx"))
    N = 819
    neox = index[:26] + (1).to_bytes(8, "little") + index[34 : 34 + 12 * N] + bytes(8)
    assert [hashlib.sha256(data).hexdigest() for data in (tokens, neox)] == NEOX
    assert len(IndexedDataset(tmp_path / "out").doc_idx) == 821  # of 820 documents, one is empty
