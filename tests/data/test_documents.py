"""Documents out of files: every kind, cut anywhere, and one line for what is damaged."""

import gzip
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data import compressed, documents, tables
from jaxneox.data.documents import chunks, input_files, text_of
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.tokenizer import build_tokenizer
from jaxneox.data.tokens_file import TokensFile
from jaxneox.errors import UserError
from jaxneox.evaluate.arguments import parser
from jaxneox.evaluate.command import check
from jaxneox.preprocess.chat import ChatRecipe

LINES = [json.dumps({"text": f"{i} é" * (i % 7), "id": i}) for i in range(40)]
JSONL = ("\n".join(LINES) + "\n").encode()
TEXTS = [json.loads(line)["text"] for line in LINES]


def zstd(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    return bytes(zstandard.ZstdCompressor().compress(data))


def read(*paths: pathlib.Path, key: str = "text") -> list[str]:
    return [text_of(r, key) for chunk in chunks(paths, [key]) for r in chunk.records()]


def message(path: pathlib.Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines(tmp_path: pathlib.Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"x.jsonl{suffix}"
    compress = COMPRESSED.get(suffix, bytes)
    path.write_bytes(compress(JSONL[:100]) + compress(JSONL[100:]))  # two streams in one file
    for size in (1, 100, 1 << 20):
        monkeypatch.setattr(documents, "CHUNK", size)
        monkeypatch.setattr(compressed, "BLOCK", 37)
        assert read(path) == TEXTS
        size = path.stat().st_size  # what follows the last line may go uncounted
        assert size - 37 <= sum(chunk.read for chunk in chunks([path])) <= size


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_text(tmp_path: pathlib.Path, suffix: str) -> None:
    path = tmp_path / f"x.txt{suffix}"
    path.write_bytes(COMPRESSED.get(suffix, bytes)("\ufeffa\r\nb\rc\n".encode()))
    assert read(path) == ["\ufeffa\nb\nc\n"]


def test_a_table(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "x.parquet"
    table = pyarrow.table({"body": TEXTS, "id": list(range(len(TEXTS)))})
    parquet.write_table(table, path, row_group_size=7)
    monkeypatch.setattr(tables, "ROWS", 3)
    places = [place for chunk in chunks([path], ["body"]) for place, _ in chunk.records()]
    assert places == [f"{path}, row {n + 1}" for n in range(len(TEXTS))]
    assert read(path, key="body") == TEXTS and len(list(chunks([path], ["id"]))) == 6
    with pytest.raises(UserError, match=r'x\.parquet: the columns body, id, expected .* "text"'):
        read(path)
    assert "not a whole parquet file" in message(path, path.read_bytes()[:-5])


@given(st.lists(st.binary(max_size=9).map(lambda b: json.dumps(b.hex())), max_size=30),
       st.integers(1, 50), st.integers(1, 50), st.booleans())  # fmt: skip
def test_cut_anywhere(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], chunk: int, block: int, end: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    path.write_text("\n".join(lines) + "\n" * end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "CHUNK", chunk)
        patch.setattr(compressed, "BLOCK", block)
        found = list(itertools.chain.from_iterable(c.records() for c in chunks([path])))
    assert [value for _, value in found] == list(map(json.loads, lines))
    assert [where for where, _ in found] == [f"{path}, line {n + 1}" for n in range(len(lines))]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_truncated_and_damaged(tmp_path: pathlib.Path, suffix: str) -> None:
    path = tmp_path / f"x.jsonl{suffix}"
    data = COMPRESSED[suffix](JSONL * 50)
    for cut in (5, len(data) // 2, len(data) - 1):
        found = message(path, data[:cut])
        assert f"x.jsonl{suffix}, line " in found and "truncated" in found
    assert "damaged" in message(path, JSONL)
    two = COMPRESSED[suffix](JSONL)
    assert "line 41: truncated" in message(path, two + two[:8])
    assert "truncated" in message(tmp_path / f"x.txt{suffix}", data[:-3])


def test_lines_are_counted_over_chunks(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "CHUNK", 64)
    monkeypatch.setattr(compressed, "BLOCK", 16)
    path = tmp_path / "x.jsonl"
    assert "x.jsonl, line 41: not JSON" in message(path, JSONL + b"{\n" + JSONL)
    assert "x.jsonl, line 43: byte 0xff is not UTF-8" in message(path, JSONL + b'\n\n"\xff"\n')
    assert "line 1: JSON nested too deep" in message(path, b"[" * 100_000 + b"\n")


def test_input_files(tmp_path: pathlib.Path) -> None:
    for name in ("b.txt", "a.jsonl.zst", "deep/c.parquet", "d.md", "e.json", "f.json.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [str(path.relative_to(tmp_path)) for path in input_files(tmp_path)]
    assert names == ["a.jsonl.zst", "b.txt", "deep/c.parquet", "f.json.gz"]
    with pytest.raises(UserError, match=r"d\.md: unknown kind of file, expected \.jsonl"):
        input_files(tmp_path / "d.md")


@pytest.mark.parametrize(
    ("name", "package"), [("x.jsonl.zst", "zstandard"), ("x.parquet", "pyarrow")]
)
def test_a_package_that_is_missing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert f"needs `pip install {package}`" in message(tmp_path / name, b"x")


def test_small_texts_go_together(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "CHUNK", 10)
    paths = [tmp_path / f"{n}.txt" for n in range(5)]
    for path in paths:
        path.write_text("abcd")
    (tmp_path / "2.jsonl").write_text('"line"\n')
    paths.insert(2, tmp_path / "2.jsonl")
    assert read(*paths) == ["abcd"] * 2 + ["line"] + ["abcd"] * 3
    assert [chunk.read for chunk in chunks(paths)] == [8, 7, 12]


def test_long_lines_and_bombs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LONGEST_LINE", 1 << 20)
    monkeypatch.setattr(documents, "LONGEST_UNPACKED", 1 << 20)
    monkeypatch.setattr(compressed, "ZSTD_BLOCK", 64)
    bomb = b"\n\n" + b"a" * (64 << 20)
    for suffix, compress in COMPRESSED.items():
        found = message(tmp_path / f"x.jsonl{suffix}", compress(bomb))
        assert "line 1: longer than 1 MiB" in found or "line 3: longer than 1 MiB" in found
        assert "more than 1 MiB" in message(tmp_path / f"x.txt{suffix}", compress(bomb))
    assert "line 1: longer" in message(tmp_path / "x.jsonl", bomb[2:])


def test_pipes_and_folders_are_no_files(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "x.jsonl")
    (tmp_path / "y.txt").mkdir()
    for name, what in (("x.jsonl", r"a pipe \(FIFO\)"), ("z.txt", "no such file")):
        with pytest.raises(UserError, match=rf"{name}: (is )?{what}"):
            input_files(tmp_path / name)
    with pytest.raises(UserError, match="is a device"):
        input_files("/dev/null")
    with pytest.raises(UserError, match="nothing to read"):
        input_files(tmp_path)


def test_nothing_waits_for_a_pipe(tmp_path: pathlib.Path) -> None:
    """Wherever data or a tokenizer is read; a pipe that nobody writes to would be for ever."""
    for name in ("x.bin", "x.idx", "t.npz", "tokenizer.json", "tokenizer_config.json"):
        os.mkfifo(tmp_path / name)
    for read_it in (
        lambda: IndexedDataset(tmp_path / "x"),
        lambda: TokensFile(str(tmp_path / "t.npz"), global_batch=1, seq_length=1),
        lambda: build_tokenizer(TokenizerConfig("HFTokenizer", str(tmp_path / "tokenizer.json"))),
        lambda: ChatRecipe(tmp_path).build(),
        lambda: check(parser().parse_args(["run", "--perplexity", str(tmp_path / "t.npz")])),
    ):
        with pytest.raises(UserError, match=r"is a pipe \(FIFO\), expected a file"):
            read_it()
