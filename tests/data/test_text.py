"""Text to `.bin/.idx`: NeoX's bytes, what a document is, the cache, one line for bad text."""

import json
import os
import pathlib
import sysconfig
import threading
import time

import pytest

from jaxneox.config.schema import TokenizerConfig
from jaxneox.console.waiting import PATIENCE
from jaxneox.data import text
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.tokenizer import Tokenizer, build_tokenizer
from jaxneox.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("JAXNEOX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def char() -> Tokenizer:
    return build_tokenizer(TokenizerConfig("CharLevelTokenizer"))


def documents(path: pathlib.Path | str, tokenizer: Tokenizer) -> list[str]:
    """The documents of the dataset made of a text, each checked to end, and only to end, in 0."""
    dataset = IndexedDataset(text.cached_dataset(str(path), tokenizer))
    rows = [dataset.get(i).tolist() for i in range(len(dataset))]
    assert all(row.index(0) == len(row) - 1 for row in rows)
    return [tokenizer.decode(row) for row in rows]


@pytest.mark.parametrize("letter", ["a", "b"])
def test_jsonl_gives_the_bytes_of_neox(shared: pathlib.Path, letter: str) -> None:
    vocab = shared / "data" / "tokenizer" / "20B_tokenizer.json"
    tokenizer = build_tokenizer(TokenizerConfig("HFTokenizer", str(vocab)))
    corpora = shared / "golden" / "data" / "corpora"
    made = text.cached_dataset(str(corpora / f"corpus_{letter}.jsonl"), tokenizer)
    for suffix in (".bin", ".idx"):
        theirs = corpora / f"neox_corpus_{letter}_text_document{suffix}"
        assert made.with_suffix(suffix).read_bytes() == theirs.read_bytes()


def test_txt_is_one_document(tmp_path: pathlib.Path, char: Tokenizer) -> None:
    """As NeoX's tool reads it: any line end is one, a byte order mark stays."""
    (tmp_path / "x.txt").write_bytes("\ufeffone\r\n\rtwo é\n".encode())
    assert documents(tmp_path / "x.txt", char) == ["\ufeffone\n\ntwo é\n"]


def test_jsonl_lines(tmp_path: pathlib.Path, char: Tokenizer) -> None:
    lines = [
        {"text": "a\nb", "meta": 1},
        "bare",
        {"text": ["x", "y"]},
        {"text": ""},
        "",
        {"text": " "},
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert documents(tmp_path / "x.jsonl", char) == ["a\nb", "bare", "x\n\ny", " "]


def test_folder_is_its_files_in_order(tmp_path: pathlib.Path, char: Tokenizer) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name, content in (("b.txt", "B"), ("a.jsonl", '"A"'), ("deep/c.txt", "C"), ("d.md", "D")):
        (tmp_path / "in" / name).write_text(content)
    assert documents(tmp_path / "in", char) == ["A", "B", "C"]


def test_stdlib(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, char: Tokenizer) -> None:
    files = text.text_files("builtin:stdlib")
    assert files == sorted(files) and {"abc.py", "json", "random.py"} <= {
        part for file in files for part in file.parts
    }
    assert not {part for file in files for part in file.parts} & text.NOT_LIBRARY
    for name, content in (("a.py", b"x = 1\n"), ("b.py", b"# \xe9\n"), ("test/t.py", b"no")):
        (tmp_path / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lib" / name).write_bytes(content)
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": str(tmp_path / "lib")}.get)
    assert documents("builtin:stdlib", char) == ["x = 1\n", "# \ufffd\n"]
    with pytest.raises(UserError, match=r"^builtin:other: unknown"):
        text.text_files("builtin:other")


def test_is_text(tmp_path: pathlib.Path) -> None:
    assert all(map(text.is_text, ("x.txt", "x.jsonl", "builtin:stdlib", str(tmp_path))))
    assert not any(map(text.is_text, ("x", "x.bin", "x_text_document")))
    tmp_path.with_suffix(".idx").touch()  # a folder beside a dataset of the same name
    assert not text.is_text(str(tmp_path))


def test_cache_follows_content_and_tokenizer(
    tmp_path: pathlib.Path, char: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.txt"

    def made(content: str) -> pathlib.Path:
        file.write_text(content)
        os.utime(file, ns=(0, time.monotonic_ns()))
        return text.cached_dataset(str(file), char)

    first = made("one")
    assert made("two") != first
    stamp = first.with_suffix(".idx").stat().st_mtime_ns
    assert made("one") == first and first.with_suffix(".idx").stat().st_mtime_ns == stamp
    monkeypatch.setattr(char, "fingerprint", lambda: "another")
    assert made("one") != first


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_damaged_cache_is_made_again(
    damage: str,
    suffix: str,
    tmp_path: pathlib.Path,
    cache: pathlib.Path,
    char: Tokenizer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "x.txt").write_text("some text")
    made = text.cached_dataset(str(tmp_path / "x.txt"), char).with_suffix(suffix)
    content = made.read_bytes()
    made.unlink()
    if damage != "gone":
        half = len(content) // 2
        middle = bytes([content[half] ^ 1]) + content[half + 1 :] if damage == "flip" else b""
        made.write_bytes(content[:half] + middle)
    assert documents(tmp_path / "x.txt", char) == ["some text"]
    assert made.read_bytes() == content
    assert f"{made.parent} is damaged: making it again" in capsys.readouterr().err
    assert [path.name for path in cache.iterdir()] == [made.parent.name]
    assert documents(tmp_path / "x.txt", char) == ["some text"]
    assert capsys.readouterr().err == ""


def test_a_cache_of_before_is_used_as_it_is(
    tmp_path: pathlib.Path, char: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.txt").write_text("some text")
    made = text.cached_dataset(str(tmp_path / "x.txt"), char).with_suffix(".bin")
    made.with_name(text.CONTENT).unlink()
    before = made.stat().st_ino
    assert documents(tmp_path / "x.txt", char) == ["some text"]
    assert made.stat().st_ino == before and capsys.readouterr().err == ""


def test_what_another_has_made_meanwhile_stays(
    tmp_path: pathlib.Path,
    cache: pathlib.Path,
    char: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The folder is looked at, and another process gives it its name: it is not called damaged."""
    (tmp_path / "x.txt").write_text("some text")
    path, look, made = str(tmp_path / "x.txt"), text._whole, []

    def late(prefix: pathlib.Path) -> bool:
        found = look(prefix)
        if not made:
            made.append(prefix)  # the other one's call sees what is there
            text.cached_dataset(path, char)
            made.append(prefix.with_name(f"{prefix.name}.bin").stat().st_ino)
        return found

    monkeypatch.setattr(text, "_whole", late)
    prefix = text.cached_dataset(path, char)
    assert made == [prefix, prefix.with_name(f"{prefix.name}.bin").stat().st_ino]
    assert capsys.readouterr().err == ""


def test_two_at_once(
    tmp_path: pathlib.Path, cache: pathlib.Path, char: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.txt").write_text("text")
    both = threading.Barrier(2)

    def slowly(texts: list[str], where: list[str]) -> list[object]:
        both.wait(10)
        return type(char).encode_batch(char, texts, where)  # type: ignore[return-value]

    monkeypatch.setattr(char, "encode_batch", slowly)
    found: list[pathlib.Path] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(text.cached_dataset(str(tmp_path / "x.txt"), char))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and found[0] == found[1]
    assert IndexedDataset(found[0]).get(0).tolist() == [*b"text", 0]
    assert [path.name for path in cache.iterdir()] == [found[0].parent.name]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"a\nb\n\xffc", r"x\.txt, line 3: byte 0xff is not UTF-8"),
        ("x.jsonl", b'"a"\n"\xff"\n', r"x\.jsonl, line 2: byte 0xff is not UTF-8"),
        ("x.jsonl", b'"a"\n\n{"text": \n', r"x\.jsonl, line 3: not JSON"),
        ("x.jsonl", b'{"txt": 1, "id": 2}\n', r"x\.jsonl, line 1: the keys txt, id, expected"),
        ("x.jsonl", b"[1]\n", r"x\.jsonl, line 1: \[1\], expected"),
        ("x.jsonl", b'{"text": ["a", 1]}\n', r"x\.jsonl, line 1: .text. is \['a', 1\], expected"),
        ("x.jsonl", b'"a\\ud800"\n', r"x\.jsonl, line 1: half a surrogate pair, '\\ud800'"),
        ("x.jsonl", b"\n", r"x\.jsonl: no text in 1 file"),
        ("x.txt", b"", r"x\.txt: no text in 1 file"),
    ],
)
def test_bad_text(
    tmp_path: pathlib.Path,
    cache: pathlib.Path,
    char: Tokenizer,
    name: str,
    content: bytes,
    message: str,
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        text.cached_dataset(str(tmp_path / name), char)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_nothing_there(tmp_path: pathlib.Path, char: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"none\.txt: no such file"):
        text.cached_dataset(str(tmp_path / "none.txt"), char)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: nothing to read"):
        text.cached_dataset(str(tmp_path / "empty"), char)


def test_cache_that_cannot_be_written(
    tmp_path: pathlib.Path, char: Tokenizer, cache: pathlib.Path
) -> None:
    (tmp_path / "x.txt").write_text("text")
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write the tokens of .*JAXNEOX_CACHE"):
        text.cached_dataset(str(tmp_path / "x.txt"), char)


def test_no_end_of_document(
    tmp_path: pathlib.Path, char: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(char, "eod", None)
    with pytest.raises(UserError, match=r"has no <\|endoftext\|> token"):
        text.cached_dataset("x.txt", char)


def test_progress_of_large_text(
    tmp_path: pathlib.Path,
    char: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "x.jsonl").write_text('"abcdefgh"\n' * 9)
    monkeypatch.setenv(PATIENCE, "0")
    monkeypatch.setattr(text.documents, "CHUNK", 16)
    assert documents(tmp_path / "x.jsonl", char) == ["abcdefgh"] * 9
    assert "tokenizing" in capsys.readouterr().err
