"""`inspect` against figures that are counted another way."""

import json
import pathlib
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxneox.data.commands import scan
from jaxneox.data.commands.histogram import Bin, draw, histogram
from jaxneox.data.commands.inspect import figures
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.tokenizer import CharLevelTokenizer
from tests.data.commands.calls import call, write

DOCUMENTS = [[[5, 0, 7], [8, 0]], [], [[9, 0]], [[]], [[1, 2, 3, 4]], [[0]]]
tokens = st.lists(st.integers(0, 600), max_size=6)
corpora = st.lists(st.lists(tokens, max_size=3), max_size=8)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that documents and counts go over the ends of what is read at once."""
    monkeypatch.setattr(scan, "CHUNK", 3)


@given(corpora)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_figures(tmp_path: pathlib.Path, documents: list[list[list[int]]]) -> None:
    found = figures(IndexedDataset(write(tmp_path / "x", documents)), CharLevelTokenizer())
    joined = [[token for sequence in document for token in sequence] for document in documents]
    filled = [document for document in joined if document]
    lengths = [len(document) for document in filled]
    every = [token for document in joined for token in document]
    assert found["documents"] == len(documents)
    assert found["sequences"] == sum(map(len, documents))
    assert found["empty_documents"] == len(joined) - len(filled)
    assert found["tokens"] == len(every)
    shape = found["lengths"]
    assert shape["shortest"] == min(lengths, default=0)
    assert shape["longest"] == max(lengths, default=0)
    assert shape["median"] == (np.median(lengths) if lengths else 0)
    assert sum(count for _, _, count in shape["histogram"]) == len(filled)
    if not every:
        assert found["ids"] is None
        return
    ended = sum(document[-1] == 0 for document in filled)
    assert found["ids"] == {
        "least": min(every),
        "greatest": max(every),
        "vocabulary": 512,
        "outside": sum(token >= 512 for token in every),
        "eod": 0,
        "ended_documents": ended,
        "eod_inside": every.count(0) - ended,
    }


@given(st.lists(st.integers(1, 5000)))
def test_histogram(lengths: list[int]) -> None:
    bins = histogram(np.array(lengths, np.int64))
    for low, high, documents in bins:
        assert documents == sum(low <= length <= high for length in lengths)
        assert high == 2 * low - 1
    assert sum(one.documents for one in bins) == len(lengths)
    assert all(a.high + 1 == b.low for a, b in pairwise(bins))


def test_picture() -> None:
    assert draw([Bin(1, 1, 1), Bin(2, 3, 0), Bin(4, 7, 1000)]) == [
        "1 to 1  ▏ 1",
        "2 to 3  0",
        f"4 to 7  {'█' * 40} 1,000",
    ]


def test_page(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = write(tmp_path / "x_text_document", DOCUMENTS)
    code, out, err = call(capsys, "inspect", prefix)
    assert (code, err) == (0, "")
    assert out == [
        f"tokens in  {prefix}.bin, 24 bytes",
        f"index in   {prefix}.idx, 162 bytes",
        "stored as  uint16",
        "documents  6, 2 of them empty",
        "sequences  6",
        "tokens     12",
        "lengths    1 shortest, 3 median, 3.0 mean, 5 longest",
        "token ids  0 to 9",
        "ends       3 of 4 documents end with token 0; 1 more inside",
        "",
        f"1 to 1  {'█' * 20} 1",
        f"2 to 3  {'█' * 20} 1",
        f"4 to 7  {'█' * 40} 2",
    ]


def test_no_common_end_and_no_tokens(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = call(capsys, "inspect", write(tmp_path / "x", [[[1]], [[2]], [[3]]])).out
    assert "ends       the documents have no common last token" in out
    out = call(capsys, "inspect", write(tmp_path / "x", [[[1]]], "float64")).out
    assert "token ids  none, these are float64 numbers" in out
    words = ("inspect", write(tmp_path / "x", []), "--png", tmp_path / "x.png")
    assert "tokens     0" in call(capsys, *words).out


def test_labels_beside(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = write(tmp_path / "x_text_document", [[[1, 2, 3]]])
    for name in ("x_text_label_document", "x_label_document"):
        labels = write(tmp_path / name, [[[-100, -100, 3]]], "int32")
        out = call(capsys, "inspect", prefix).out
        assert f"labels     {labels}.bin, 66.7% of them masked" in out
    assert not any(line.startswith("labels") for line in call(capsys, "inspect", labels).out)


def test_the_text_of_labels_is_what_is_learned(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write(tmp_path / "x", [[[-100, -100, *b"Two"]]], "int32")
    kind = ("--tokenizer-type", "CharLevelTokenizer")
    out = call(capsys, "inspect", labels, "--document", 0, *kind).out
    assert out[1:] == ["-100 -100 84 119 111", "", "Two"]


def test_one_document(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "Größe\n\x1b[2J"
    data = [*text.encode(), 0]
    prefix = write(tmp_path / "x", [[[1]], [data[:3], data[3:]]])
    kind = ("--tokenizer-type", "CharLevelTokenizer")
    _, out, _ = call(capsys, "inspect", prefix, "--document", 1, *kind)
    assert out == ["x, document 1: 13 tokens", " ".join(map(str, data)), "", "Größe", "\\x1b[2J"]
    _, out, _ = call(capsys, "inspect", prefix, "--document", 1, "--tokens", "0:2", "--json", *kind)
    assert json.loads(out[0]) == {"document": 1, "tokens": data[:2], "text": "Gr"}
    _, out, _ = call(capsys, "inspect", prefix, "--document", 1, "--tokens", "11:99")
    assert out == ["x, document 1: 13 tokens, of which 11:99", "74 0"]
    line = call(capsys, "inspect", prefix, "--document", 2).refusal()
    assert line == f"{prefix}: no document 2, there are 0 to 1"
    line = call(capsys, "inspect", prefix, "--document", 1, "--tokens", "3").refusal()
    assert line == "--tokens: '3', expected A:B, such as 0:100"


def test_json_and_png(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = write(tmp_path / "x", DOCUMENTS)
    _, out, _ = call(capsys, "inspect", prefix, "--json", "--png", tmp_path / "x.png")
    assert json.loads(out[0]) == figures(IndexedDataset(prefix), None)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert {p.name for p in tmp_path.iterdir()} == {"x.bin", "x.idx", "x.png"}


def test_golden(shared: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures of golden/data/README.md."""
    corpora = shared / "golden" / "data" / "corpora"
    vocab = shared / "data" / "tokenizer" / "20B_tokenizer.json"
    words = ("--json", "--vocab-file", vocab)
    scan.CHUNK = 1 << 22
    prefix = corpora / "mcore_corpus_b_text_document"
    (line,) = call(capsys, "inspect", prefix, *words).out
    found = json.loads(line)
    assert (found["documents"], found["empty_documents"], found["tokens"]) == (288, 1, 42608)
    assert found["ids"]["ended_documents"] == 287 and found["ids"]["outside"] == 0
    (line,) = call(capsys, "inspect", corpora / "neox_corpus_q_text_document", *words).out
    assert json.loads(line)["labels"]["tokens"] == 11298


def test_tokenizer_of_a_yaml(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = write(tmp_path / "x", [[[72, 105, 0]]])
    (tmp_path / "a.yml").write_text("tokenizer-type: CharLevelTokenizer\n")
    words = ("inspect", prefix, "--document", 0, "--config", tmp_path / "a.yml")
    assert call(capsys, *words).out[-1] == "Hi"
    assert "give one of the two" in call(capsys, *words, "--vocab-file", "x.json").refusal()


@pytest.mark.slow
def test_as_a_program(tmp_path: pathlib.Path) -> None:
    prefix = write(tmp_path / "x", DOCUMENTS)
    ran = [sys.executable, "-m", "jaxneox.data", "inspect"]
    done = subprocess.run([*ran, prefix], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"tokens in  {prefix}.bin")
    done = subprocess.run([*ran, tmp_path / "y"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path}/y.idx: no such file")
