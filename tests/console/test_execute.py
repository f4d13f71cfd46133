"""Whatever stops a command becomes one line and a status."""

import argparse
import contextlib
import importlib.util
import io
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from convert import to_neox
from jaxneox.console.execute import entry_point, hush
from jaxneox.console.parser import Parser
from jaxneox.console.text import tolerate_any_text
from jaxneox.errors import UserError


def outcome(work: Callable[[], Any], foreign: bool = False) -> tuple[int, str]:
    """The status of a command that does this, and its standard error."""

    def run(args: argparse.Namespace) -> int | None:
        return work()

    err = io.StringIO()
    with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        entry_point(lambda: Parser("try", "Try."), run, foreign=foreign)([])
    return int(ended.value.code or 0), err.getvalue()


def failing(error: BaseException) -> Callable[[], Any]:
    def work() -> None:
        raise error

    return work


class Hopeless(UserError):
    status = 3


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("a: is no b"), 2, "error: a: is no b"),
        (UserError("two\nlines \x1b[31m"), 2, "error: two lines \\x1b[31m"),
        (Hopeless("x"), 3, "error: x"),
        (FileNotFoundError(2, "No such file", "here"), 2, "error: here: No such file"),
        (MemoryError("9 GB"), 2, "error: this needs more memory than there is (9 GB)"),
        (KeyboardInterrupt(), 130, "interrupted; what was not finished was taken away"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            2,
            "error: this needs torch, which is not installed: pip install 'jaxneox[torch]'",
        ),
    ],
)
def test_one_line(error: BaseException, status: int, line: str) -> None:
    assert outcome(failing(error)) == (status, f"{line}\n")


def test_a_fault_of_ours_is_shown_but_where_files_are_foreign() -> None:
    with pytest.raises(ZeroDivisionError):
        outcome(failing(ZeroDivisionError("no")))
    status, err = outcome(failing(ZeroDivisionError("no")), foreign=True)
    assert status == 2 and err.count("\n") == 1 and "ZeroDivisionError: no" in err


def test_success_says_nothing() -> None:
    assert outcome(lambda: None) == outcome(lambda: 0) == (0, "")
    assert outcome(lambda: 1) == (1, "")


def test_what_needs_an_extra_says_so_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        to_neox.main(["nowhere", str(tmp_path / "out")])
    assert "writing NeoX's files needs torch" in capsys.readouterr().err


def test_input_that_was_read_already_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(b"one\ntwo\n"))
    stream.readline()
    monkeypatch.setattr(sys, "stdin", stream)
    tolerate_any_text()
    assert stream.readline() == "two\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Event loop is closed", False),
        ("Encountered error while reading array index: (slice(0, 2, 1),)", False),
        ("anything else", True),
    ],
)
def test_what_orbax_leaves_behind_of_a_failure_is_not_shown(
    text: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    hush.__wrapped__()
    left = types.SimpleNamespace(exc_value=Exception(text))
    sys.unraisablehook(left)  # type: ignore[arg-type]
    assert seen == [left] * told
