"""Whatever ends the command, the same one goes on and leaves the same bytes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxneox.preprocess import output
from tests.limits import PATIENCE
from tests.preprocess.command import CHAR, call, made

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Killed(BaseException):
    """Ends the command as a kill does: nothing is done on the way out."""


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("flags", [[], ["--mask-before-token", "101,110"]])
def test_goes_on_after_any_chunk(
    lines: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    """Killed after 1, 2, … chunks, each time with a state on disk that is a chunk old."""
    assert call(lines, tmp_path / "whole" / "x", *CHAR, *flags) == 0
    expected = made(tmp_path / "whole" / "x")
    add, save = output.Output.add, output.Output.save
    monkeypatch.setattr(output, "EVERY", 0.0)
    starts, limit = [], 0

    def add_some(self: output.Output, encoded: output.Encoded) -> None:
        nonlocal limit
        if not limit:
            for pair in self._files.values():
                pair[0].write(b"torn")
            self._files = {}
            monkeypatch.setattr(output.Output, "save", lambda self: None)
            raise Killed
        limit -= 1
        add(self, encoded)

    monkeypatch.setattr(output.Output, "add", add_some)
    prefix = tmp_path / "killed" / "x"
    for limit in range(9):  # noqa: B007
        try:
            assert call(lines, prefix, *CHAR, *flags) == 0
            break
        except Killed:
            monkeypatch.setattr(output.Output, "save", save)
            assert not list(prefix.parent.glob("x*"))
            hidden = prefix.parent / ".x.preprocess" / "state.json"
            starts.append(json.loads(hidden.read_text())["chunks"] if hidden.exists() else 0)
    assert made(prefix) == expected and starts[:4] == [0, 1, 3, 6]


@pytest.mark.parametrize("moves", range(6))
def test_goes_on_when_killed_between_two_names(
    lines: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    mask = ["--mask-before-token", "101"]
    assert call(lines, tmp_path / "whole" / "x", *CHAR, *mask) == 0
    prefix = tmp_path / "killed" / "x"
    older = tmp_path / "older.jsonl"
    older.write_text('"an older one"\n')
    assert call(older, prefix, *CHAR, *mask) == 0
    names = [f"_{name}_document" for name in ("text", "label")]
    wholes = [[made(p)[name + end] for end in (".bin", ".idx")]
              for p in (prefix, tmp_path / "whole" / "x") for name in names]  # fmt: skip
    replace, count = os.replace, 0

    def some(source: str, target: pathlib.Path) -> None:
        nonlocal count
        if not target.name.startswith("state"):
            count += 1
            if count > moves:
                raise Killed
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", some)
        call(lines, prefix, *CHAR, *mask, "--overwrite")
    for name in names:  # never the index of one beside the tokens of the other
        pair = [prefix.with_name(f"x{name}{end}") for end in (".bin", ".idx")]
        assert not pair[1].exists() or [path.read_bytes() for path in pair] in wholes
    assert call(lines, prefix, *CHAR, *mask) == 0
    assert made(prefix) == made(tmp_path / "whole" / "x")


def start(path: pathlib.Path, prefix: pathlib.Path, workers: int) -> subprocess.Popen[str]:
    """The command in a process of its own, slow enough to be met at work."""
    code = (
        "import sys, time\n"
        "from jaxneox.data import compressed, documents\n"
        "from jaxneox.preprocess import output\n"
        "from jaxneox.preprocess.command import main\n"
        "documents.CHUNK, compressed.BLOCK, output.EVERY = 256, 100, 0\n"
        "add = output.Output.add\n"
        "output.Output.add = lambda *given: (add(*given), time.sleep(0.1))\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(main(sys.argv[1:]))\n"
    )
    script = prefix.parent.parent / "slow.py"
    script.write_text(code)
    words = ["--input", str(path), "--output-prefix", str(prefix), "--workers", str(workers), *CHAR]
    return subprocess.Popen(
        [sys.executable, str(script), *words],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def chunks_done(prefix: pathlib.Path) -> int:
    try:
        state = prefix.parent / f".{prefix.name}.preprocess" / "state.json"
        return int(json.loads(state.read_text())["chunks"])
    except (OSError, ValueError):
        return 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "workers"), [("KILL", 1), ("KILL", 2), ("INT", 2)])
@pytest.mark.usefixtures("small_chunks")
def test_killed_for_real(
    lines: pathlib.Path, tmp_path: pathlib.Path, kind: str, workers: int
) -> None:
    assert call(lines, tmp_path / "whole" / "x", *CHAR) == 0
    prefix = tmp_path / "killed" / "x"
    for goal in (2, 4) if workers == 1 else (3,):
        process = start(lines, prefix, workers)
        while chunks_done(prefix) < goal:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.002)
        if kind == "INT":  # a terminal sends it to the workers as well
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.kill()
        said = process.communicate(timeout=PATIENCE)[1]
        assert not list(prefix.parent.glob("x*"))
        if kind == "INT":
            assert process.returncode == 130
            assert said.splitlines()[-1] == "interrupted; the same command goes on from here"
            assert "Traceback" not in said
    process = start(lines, prefix, workers)
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0 and "going on after" in said
    assert made(prefix) == made(tmp_path / "whole" / "x")


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("change", ["input", "flag", "nothing"])
def test_another_command_starts_afresh(
    lines: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, change: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    good = lines.read_text()
    lines.write_text(good + "{\n")
    assert call(lines, tmp_path / "x", *CHAR) == 2
    assert (tmp_path / ".x.preprocess" / "state.json").exists()
    if change == "input":
        lines.write_text(good)
    flags = CHAR[:2] if change == "flag" else CHAR
    capsys.readouterr()
    assert call(lines, tmp_path / "x", *flags) == (0 if change == "input" else 2)
    assert ("going on" in capsys.readouterr().err) == (change == "nothing")
    if change == "input":
        assert call(lines, tmp_path / "y" / "x", *CHAR) == 0
        assert made(tmp_path / "x") == made(tmp_path / "y" / "x")


def test_one_command_at_a_time(
    lines: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dtypes = {"text": np.dtype(np.uint16)}
    with output.Output(tmp_path / "x", dtypes, {}):
        assert call(lines, tmp_path / "x", *CHAR) == 2
    assert "x: another command is writing it" in capsys.readouterr().err
