"""Which keys are read without --jsonl-keys, and what a prompt with its completion becomes."""

import json
import pathlib
from typing import Any

import pytest

from tests.preprocess.command import CHAR, call
from tests.preprocess.test_chat import CHATML, rows, write
from tests.preprocess.test_turns import folder_of

U, A = {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}
CHAT = [U, A]


def run(tmp_path: pathlib.Path, row: Any, *more: str) -> int:
    path = write(tmp_path / "in.jsonl", [row, row])
    folder = folder_of(tmp_path / "tok", CHATML)
    return call(path, tmp_path / "x", "--tokenizer-path", str(folder), *more)


def learned(tmp_path: pathlib.Path, key: str) -> tuple[list[int], list[int]]:
    path = tmp_path / "in.jsonl"
    return rows(path, key)[0], rows(path, f"{key}_label")[0]


@pytest.mark.parametrize(
    ("row", "key", "note"),
    [
        ({"conversation": CHAT}, "conversation", ""),
        ({"messages": CHAT}, "messages", "conversations are read from messages\n"),
        ({"messages": CHAT, "text": "x"}, "messages", "text is there too and is not read"),
        ({"prompt": "one", "completion": "two"}, "completion", "from prompt with completion"),
        ({"prompt": [U], "completion": [A]}, "completion", "from prompt with completion"),
    ],
)
def test_recognized(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], row: Any, key: str, note: str
) -> None:
    """All are the same tokens and labels."""
    assert run(tmp_path, row) == 0
    assert note in capsys.readouterr().err
    found = learned(tmp_path, key)
    assert run(tmp_path, {"conversation": CHAT}, "--overwrite") == 0
    assert found == learned(tmp_path, "conversation")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversation": CHAT, "messages": CHAT}, "has conversation and messages; say with"),
        ({"messages": CHAT, "prompt": "", "completion": ""}, "has messages and prompt with"),
        ({"text": "x", "prompt": "y"}, "has the keys text, prompt, expected conversation"),
        ("x", "has no keys, expected"),
        ({"prompt": "x", "completion": 3}, 'line 1: "completion" is no conversation'),
    ],
)
def test_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], row: Any, message: str
) -> None:
    assert run(tmp_path, row) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_only_the_completion_of_a_pair_is_learned(tmp_path: pathlib.Path) -> None:
    """An earlier answer in the prompt is context, as in TRL."""
    row = {"prompt": [U, A, U], "completion": "two"}
    assert run(tmp_path, row, "--jsonl-keys", "prompt", "completion") == 0
    tokens, labels = learned(tmp_path, "completion")
    assert run(tmp_path, {"messages": [U, A, U, A]}, "--overwrite", "--only-last") == 0
    assert (tokens, labels) == learned(tmp_path, "messages")
    assert set(labels) != {-100} and labels[: len(labels) // 2] == [-100] * (len(labels) // 2)


def test_text_beside_conversations(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"messages": CHAT, "text": "x"}))
    assert call(path, tmp_path / "x", *CHAR) == 0
    assert "note: text is read; messages is there too" in capsys.readouterr().err
    path.write_text(json.dumps({"messages": CHAT}))
    assert call(path, tmp_path / "y", *CHAR) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "give --tokenizer-path DIR" in said


def test_a_table_of_conversations(tmp_path: pathlib.Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"messages": [CHAT]}), tmp_path / "in.parquet")
    folder = folder_of(tmp_path / "tok", CHATML)
    words = ("--tokenizer-path", str(folder))
    assert call(tmp_path / "in.parquet", tmp_path / "x", *words) == 0
    found = learned(tmp_path, "messages")
    assert run(tmp_path, {"conversation": CHAT}) == 0
    assert found == learned(tmp_path, "conversation")
