"""A few cases of every kind, as `python -m tests.fuzz` runs them; and its judge."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fuzz import pickles, trees
from tests.fuzz.kinds import KINDS, chance
from tests.fuzz.outcome import judge
from tests.fuzz.worker import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_no_file_is_answered_by_a_traceback(seed: int) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seed", str(seed), "--count", "8"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert all(name in ended.stdout for name in KINDS)


def test_a_case_is_always_the_same() -> None:
    for write in (trees.json_like, trees.yaml_like, pickles.hostile):
        made = [write({"a": [1, {"b": 2}]}, chance(3, "x", 5)) for _ in range(2)]
        assert made[0] == made[1]
    assert chance(3, "x", 5).random() != chance(3, "x", 6).random()


def test_damage_is_of_every_sort() -> None:
    tree = {"a": [1, {"b": 2}], "c": "text"}
    made = {trees.json_like(tree, random.Random(k)) for k in range(100)}
    assert len(made) > 90


@pytest.mark.parametrize(
    ("status", "errors", "kind"),
    [
        (0, "", "read"),
        (2, "error: a.yml: no", "refused"),
        (2, "note: this\nerror: a.yml: no", "refused"),
        (2, "", "not one line"),
        (2, "error: two\nlines", "not one line"),
        (2, "error: " + "x" * 10**5, "not one line"),
        (2, "error: a damaged file, or a fault of this program (X)", "unforeseen"),
        (2, "error: this needs more memory than there is", "memory"),
        (1, "Traceback (most recent call last):\nValueError", "traceback"),
        (1, "", "status 1"),
        (-11, "", "signal"),
    ],
)
def test_an_ending_is_judged(status: int, errors: str, kind: str) -> None:
    assert judge(status, errors, 0.1, 10, 5) == kind


def command(main: Any) -> Any:
    return SimpleNamespace(main=main)


def endless(words: list[str]) -> None:
    while True:
        pass


def refusing(words: list[str]) -> None:
    print("error: no", file=sys.stderr)
    sys.exit(2)


def writing(words: list[str]) -> None:
    Path("left").write_text("")
    refusing(words)


def failing(words: list[str]) -> None:
    raise ValueError


def crashing(words: list[str]) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def large(words: list[str]) -> None:
    kept = bytearray(1200 << 20)
    kept[:: 1 << 12] = b"x" * len(kept[:: 1 << 12])
    refusing(words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("main", "kind"),
    [
        (endless, "hang"),
        (refusing, "refused"),
        (writing, "wrote"),
        (failing, "traceback"),
        (crashing, "signal"),
        (large, "memory"),
    ],
)
def test_a_fault_is_seen(tmp_path: Path, main: Any, kind: str) -> None:
    limit = 1 if kind == "hang" else 20
    assert run(command(main), [], tmp_path, limit, 2).kind == kind
