"""Every command that the program prints runs as it is printed.

What a command leaves to its user, in capitals, is filled in; nothing else is changed.
"""

import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from jaxneox import cli
from jaxneox.config import shipped
from jaxneox.console.hints import program
from tests.train.runs import write_words, write_yaml

pytestmark = pytest.mark.slow  # each command trains or converts

pytest.importorskip("torch", reason="NeoX's files are written with torch")


class Terminal:
    """A working folder in which commands are typed, in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, 0

    def run(self, line: str, *, status: int = 0, **filled: object) -> str:
        """Run a printed line with its capitals filled in; return what it prints.

        Args:
            line: as it is typed after the program's name.
            status: what it must end with.
            filled: what is put for words in capitals.
        """
        words = [self._fill(word, filled) for word in shlex.split(line)]
        out, err = io.StringIO(), io.StringIO()
        quiet = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with quiet[0], quiet[1], pytest.raises(SystemExit) as ended:
            cli.main(words)
        text = out.getvalue() + err.getvalue() * bool(status)
        assert ended.value.code == status, f"{words}\n{text}{err.getvalue()}"
        return text

    def new(self) -> str:
        self.made += 1
        return f"made/{self.made}"

    def _fill(self, word: str, filled: Mapping[str, object]) -> str:
        usual = {"FILE.npz": "tokens.npz", "FILE": "words.jsonl", "YOUR.txt": "words.txt"}
        for name, value in {**filled, **usual}.items():
            word = re.sub(rf"\b{re.escape(name)}(?![\w.])", str(value), word)
        return re.sub(r"^(DIR|OUT|DST)$", lambda _: self.new(), word)


def printed(text: str) -> Iterator[str]:
    """The commands of this program among the lines, as a user copies them."""
    for line in text.splitlines():
        if f"{program()} " in line:
            after = line.split(f"{program()} ", 1)[1]
            yield re.split(r"`|   |  #", after)[0].strip()


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    folder = tmp_path_factory.mktemp("printed")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        words = write_words(folder / "words.jsonl")
        (folder / "words.txt").write_text(words.read_text())
        np.savez("tokens.npz", tokens=np.ones((1000, 8, 17), np.int32))
        (folder / "configs").mkdir()
        quick = {"train-iters": 2, "train-batch-size": 8, "eval-iters": 0}
        write_yaml(folder / "configs", **quick).rename(folder / "configs/stdlib.yml")
        patch.setattr(shipped, "folder", lambda: folder / "configs")
        patch.setattr("convert.ours.next_command.STEPS", 2)
        patch.setattr("jaxneox.train.session.DEFAULT_SAMPLE", 1)
        yield Terminal(folder)


@pytest.fixture(scope="module")
def run(terminal: Terminal) -> str:
    terminal.run("train --save runs/first --set data-path=words.jsonl")
    return "runs/first"


def test_after_training(terminal: Terminal) -> None:
    """The default's own two, and how another run goes on."""
    commands = list(printed(terminal.run("train --set data-path=words.jsonl")))
    assert [c.split()[1] for c in commands] == ["--mesh", "stdlib"]
    terminal.run(f"{commands[0]} --set data-path=words.jsonl")  # the default's data is large
    (further,) = printed(terminal.run(commands[1]))
    assert "runs/mine/step_4 " in terminal.run(further)
    (longer,) = printed(terminal.run(further))  # there is nothing to do
    assert longer.endswith("train-iters=8")


def test_a_longer_run_that_sees_its_data_again(terminal: Terminal) -> None:
    """It has the data in another order, which is a change that has to be allowed."""
    size = ("seq-length=16", "train-batch-size=64", "train-iters=13", "num-layers=1", "lr=1e-3")
    line = f"train stdlib --save again --mesh dp=1 --set data-path=words.jsonl {' '.join(size)}"
    (further,) = printed(terminal.run(line))
    assert further.endswith("train-iters=26 --allow-data-change")
    refused = terminal.run(further.removesuffix(" --allow-data-change"), status=2)
    assert "the order of this data depends on the run's length" in refused
    assert "again/step_26 " in terminal.run(further)


@pytest.mark.parametrize("data", ["blend", "megatron", "overflow"])
def test_a_longer_run_of_data_whose_order_depends_on_its_length(
    terminal: Terminal, data: str
) -> None:
    """Even one that does not come to the end of its data."""
    source = {
        "blend": ("train-data-paths=[words.jsonl,words.jsonl]", "train-data-weights=[0.99,0.01]",
                  "valid-data-paths=[words.jsonl]", "test-data-paths=[words.jsonl]"),
        "megatron": ("data-path=words.jsonl", "order=megatron"),
        "overflow": ("data-path=words.jsonl", "pack-impl=pack_until_overflow"),
    }[data]  # fmt: skip
    size = ("seq-length=16", "train-batch-size=8", "train-iters=3", "num-layers=1", "lr=1e-3")
    line = f"train stdlib --save {data} --mesh dp=1 --set {' '.join((*source, *size))}"
    (further,) = printed(terminal.run(line))
    assert further.endswith("train-iters=6 --allow-data-change")
    if data != "blend":  # some blends have the same order all the same
        refused = terminal.run(further.removesuffix(" --allow-data-change"), status=2)
        assert "the order of this data depends on the run's length" in refused
    assert f"{data}/step_6 " in terminal.run(further)


@pytest.mark.parametrize("kind", ["jaxneox", "neox", "huggingface"])
def test_what_inspect_says_can_be_done(terminal: Terminal, run: str, kind: str) -> None:
    source = {"jaxneox": run, "neox": terminal.new(), "huggingface": terminal.new()}[kind]
    if kind == "neox":
        terminal.run(f"convert to-neox {run} {source} --optimizer --no-verify")
    if kind == "huggingface":
        terminal.run(f"convert to-hf {run} {source} --no-verify")
    facts = json.loads(terminal.run(f"inspect {source} --json"))
    assert facts["kind"] == kind
    made: dict[str | None, str] = {}
    for use in sorted(facts["uses"], key=lambda use: use["after"] is not None):
        if not use["possible"] or "jaxneox.load" in use["command"]:
            continue
        (line,) = printed(use["command"])
        dst = made.get(use["after"]) or terminal.new()
        out = terminal.run(line, DST=dst, OTHER=source)
        if "convert from" in line:
            made[line.split()[1] + " --optimizer" * ("--optimizer" in line)] = dst
            for further in printed(out):
                terminal.run(further)


def test_what_errors_and_notes_say_to_type(terminal: Terminal, run: str) -> None:
    neox = terminal.new()
    out = terminal.run(f"convert to-neox {run} {neox} --no-verify")
    (verify,) = printed(out)
    assert "the same function" in terminal.run(verify)
    (convert,) = printed(terminal.run(f"train {neox}", status=2))
    assert "the same function" in terminal.run(convert)
    assert terminal.run(f"generate {neox} --prompt a --max-tokens 2")  # converted on the way
