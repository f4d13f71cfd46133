"""`verify`: what is whole passes, and each damage is a line that says where."""

import pathlib

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxneox.data.commands import scan
from jaxneox.data.commands.scan import document_begins, survey
from jaxneox.data.indexed import IndexedDataset
from tests.data.commands.calls import call, write

DOCUMENTS = [[[5, 6, 0]], [], [[7], [8, 0]], [[9, 0]]]
CHARS = ("--tokenizer-type", "CharLevelTokenizer")


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> pathlib.Path:
    return write(tmp_path / "x_text_document", DOCUMENTS)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "CHUNK", 3)


def check_finds(capsys: pytest.CaptureFixture[str], words: tuple[object, ...], *lines: str) -> None:
    code, out, err = call(capsys, "verify", *words)
    assert (code, err) == (1, "")
    assert len(out) == len(lines), out
    for line, expected in zip(out, lines, strict=True):
        assert line.startswith(expected), line


def test_ids_beyond_a_gap_are_of_the_vocabulary(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tokenizer of two tokens whose ids are 0 and 9; an eos_token lies beside it."""
    model = tokenizers.models.BPE({"a": 0, "b": 9}, [])
    tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "b"}')
    flags = ("--vocab-file", tmp_path / "tokenizer.json")
    out = call(capsys, "verify", write(tmp_path / "x", [[[0, 9]]]), *flags).out
    assert "tokens below 10, documents that end with token 9" in out[0]
    assert call(capsys, "verify", write(tmp_path / "y", [[[0, 10]]]), *flags).code == 1
    chosen = (*flags, "--eod-token", "a")
    assert call(capsys, "verify", write(tmp_path / "z", [[[9, 0]]]), *chosen).code == 0


def test_all_is_well(prefix: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "verify", prefix) == (
        0, [f"{prefix}: all is well: 4 sequences of 8 tokens"], "",
    )  # fmt: skip
    write(prefix.with_name("x_label_document"), [[[5, 6, -100]], [], [[7], [-100, 0]], [[9, 0]]],
          "int32")  # fmt: skip
    assert call(capsys, "verify", prefix, *CHARS, "--write-checksums").code == 0
    sums = prefix.with_name("x_text_document.sha256")
    before = sums.read_bytes()
    assert call(capsys, "verify", prefix, *CHARS, "--vocab-size", 10, "--write-checksums").out == [
        f"{prefix}: all is well: 4 sequences of 8 tokens, checksums, tokens below 10, documents "
        "that end with token 0, labels of x_label_document"
    ]
    assert sums.read_bytes() == before
    assert call(capsys, "verify", prefix.with_name("x_label_document"), *CHARS).code == 0


def test_golden(shared: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan.CHUNK = 1 << 10
    corpora = sorted((shared / "golden" / "data" / "corpora").glob("*.idx"))
    vocab = shared / "data" / "tokenizer" / "20B_tokenizer.json"
    code, out, _ = call(capsys, "verify", *corpora, "--vocab-file", vocab)
    assert code == 0 and len(out) == len(corpora) == 7


def test_tokens_outside(prefix: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_finds(
        capsys,
        (prefix, "--vocab-size", 7),
        f"{prefix}.bin: token 7 at byte 6, number 0 of document 2, the first of 3, is outside the "
        "vocabulary of 7",
    )
    write(prefix, [[[1, 2]], [[3, -1]]], "int32")
    check_finds(
        capsys, (prefix,), f"{prefix}.bin: token -1 at byte 12, number 1 of document 1, is negative"
    )


def test_documents_without_end(prefix: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(prefix, [[[1, 0]], [], [[0], [2]], [[]], [[3]], [[0]]])
    check_finds(
        capsys,
        (prefix, *CHARS),
        f"{prefix}.bin: 2 of 4 documents do not end with the end-of-document token 0, the first is "
        "document 2",
    )


def test_checksums(prefix: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "verify", prefix, "--write-checksums").code == 0
    data = bytearray(prefix.with_suffix(".bin").read_bytes())
    data[0] ^= 1
    prefix.with_suffix(".bin").write_bytes(data)
    words = (prefix, "--write-checksums")
    check_finds(capsys, words, f"{prefix}.bin: SHA-256 ")
    check_finds(capsys, words, f"{prefix}.bin: SHA-256 ")  # not made to fit
    sums = prefix.with_suffix(".sha256")
    sums.write_text("0" * 64 + "  x_text_document.idx\n")
    check_finds(capsys, (prefix,), "x_text_document.sha256: has no line for x_text_document.bin",
                f"{prefix}.idx: SHA-256 ")  # fmt: skip
    sums.write_text("hello\n")
    check_finds(capsys, (prefix,), f"{sums}, line 1: expected a SHA-256")


def test_labels(prefix: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = prefix.with_name("x_label_document")
    labels = write(name, [[[5, 6, 0]], [], [[-100], [8, 1]], [[2, 0]]], "int32")
    check_finds(
        capsys,
        (prefix,),
        f"{labels}.bin: token 1 at byte 20, number 2 of document 2, the first of 2, is neither the "
        "text's nor -100",
    )
    write(name, [[[5, 6]], [[0, 7]], [[8, 0]], [[9, 0]]], "int32")
    check_finds(capsys, (prefix,), f"{labels}.idx: 4 sequences of 8 tokens, but the text has 4")


def test_damaged_files_and_the_others(
    prefix: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(prefix.with_name("other"), DOCUMENTS)
    prefix.with_suffix(".bin").write_bytes(bytes(9))
    floats = write(prefix.with_name("floats"), [[[1]]], "float32")
    check_finds(
        capsys,
        (prefix, other, prefix.with_name("gone"), floats),
        f"{prefix}.bin: 9 bytes, but x_text_document.idx lists 8 tokens of 2 bytes, 16 bytes: "
        "truncated, its first 2 of 4 sequences are whole",
        f"{other}: all is well",
        f"{prefix.with_name('gone')}.idx: no such file",
        f"{floats}.idx: holds float32 numbers, no tokens",
    )


def test_url_has_no_checksums(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("verify", "memory://x", "--write-checksums")
    assert "expected a local path" in call(capsys, *words).refusal()


@given(st.lists(st.lists(st.integers(-2, 5), max_size=4), max_size=12))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_survey(tmp_path: pathlib.Path, documents: list[list[int]]) -> None:
    dataset = IndexedDataset(write(tmp_path / "x", [[d] for d in documents], "int32"))
    found = survey(dataset, document_begins(dataset), eod=0, vocab_size=4)
    every = np.array([token for document in documents for token in document], int)
    outside = np.flatnonzero((every < 0) | (every >= 4)).tolist()
    assert (found.outside.number, found.outside.first) == (len(outside), [*outside, None][0])
    unended = [k for k, document in enumerate(documents) if document and document[-1] != 0]
    assert (found.unended.number, found.unended.first) == (len(unended), [*unended, None][0])
    if every.size:
        assert (found.least, found.greatest) == (every.min(), every.max())
    assert found.eods == np.count_nonzero(every == 0)
