"""The one command: what it lists, what each command says of itself, and the doors to it."""

import argparse
import contextlib
import importlib
import io
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import jaxneox
from jaxneox import cli
from jaxneox.cli import COMMANDS, Command
from jaxneox.console.hints import NAME, command, program, typed_command
from jaxneox.console.parser import Parser

ROOT = Path(__file__).resolve().parents[2]
DOORS = {
    "train": ("jaxneox.train", "train.py"),
    **{
        name: (f"jaxneox.{name}",)
        for name in (
            "tune",
            "generate",
            "chat",
            "evaluate",
            "serve",
            "compare",
            "plan",
            "precompute",
        )
    },
    "coord-check": ("jaxneox.coord_check",),
    "preprocess": ("jaxneox.preprocess",),
    **{name: (f"convert.{name}",) for name in ("inspect", "verify", "scores")},
    **{
        f"convert {name.replace('_', '-')}": (f"convert.{name}",)
        for name in (
            *("from_neox", "from_hf", "from_megatron", "to_neox", "to_hf", "to_megatron"),
            *("from_peft", "to_peft", "merge_adapter", "fold_mup"),
        )
    },
}
"""Other ways to a command: a module for `python -m`, or a script."""


def said(*words: str) -> tuple[int, str, str]:
    """The status, output and errors of `jaxneox WORDS`, in this process."""
    out, err = io.StringIO(), io.StringIO()
    quiet = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with quiet[0], quiet[1], pytest.raises(SystemExit) as ended:
        cli.main(words)
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def parser_of(one: Command) -> Parser:
    module = importlib.import_module(one.module)
    found = (
        getattr(module, "parser", None)
        or importlib.import_module(one.module.replace(".command", ".arguments")).parser
    )
    return found()


def test_alone_it_lists_all_commands() -> None:
    status, out, err = said()
    assert (status, err) == (0, "")
    for one in COMMANDS:
        (line,) = [line for line in out.splitlines() if one.summary in line]
        assert line.split("  ")[1] == f"{command(*one.words.split())} {one.example}"
    assert said("--help") == said("help") == (status, out, err)


@pytest.mark.parametrize("group", cli.GROUPS)
def test_a_group_lists_its_own(group: str) -> None:
    _, out, _ = said(group)
    for one in COMMANDS:
        assert (one.summary in out) == (one.words.split()[0] == group)


def test_version() -> None:
    status, out, _ = said("--version")
    assert status == 0 and out.startswith(f"jaxneox {jaxneox.__version__} (jax ")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("genrate run", "generate"),
        ("from_neox a b", "convert from-neox"),
        ("convert from-hff a b", "convert from-hf"),
        ("data inspct x", "data inspect"),
        ("tiny.yml", "--help"),
    ],
)
def test_what_is_not_a_command_is_named_with_the_nearest(words: str, meant: str) -> None:
    status, out, err = said(*words.split())
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert f"{program()} {meant}" in err


@pytest.mark.parametrize("one", COMMANDS, ids=lambda one: one.words)
def test_each_says_what_it_takes(one: Command) -> None:
    """Options in groups, every default that is one, and two examples that it understands."""
    status, out, _ = said(*one.words.split(), "--help")
    assert status == 0 and out.startswith(f"usage: {command(*one.words.split())} ")
    p = parser_of(one)
    assert len(p.examples) in (2, 3)
    for words in (*p.examples, one.example.removesuffix(" …")):
        assert f"{p.prog} {words}" in out or words not in p.examples
        if words not in p.examples and one.words == "preprocess":
            continue  # that of the list is shortened
        p.parse_args(shlex.split(words))
    grouped = [group for group in p._action_groups[2:] if group._group_actions]
    for action in p._actions:
        assert action.help, action.dest
        optional = bool(action.option_strings) and action.dest != "help"
        if optional and len(p._actions) > 4:
            inside = any(action in group._group_actions for group in grouped)
            assert inside or action in p._optionals._group_actions
        if optional and not isinstance(action, argparse._StoreTrueAction):
            told = action.default in (None, argparse.SUPPRESS) or action.default == []
            assert told or re.search(rf"default:\s+{re.escape(str(action.default))}", out)
    told, _, _ = out.partition("examples:")
    indented = len(f"usage: {p.prog} ")  # of the usage, by as long a name as the program has here
    assert max(map(len, told.splitlines())) <= max(100, indented + 60)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("words", DOORS)
def test_the_other_doors_lead_to_the_same(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, expected, _ = said(*words.split(), "--help")
    for door in DOORS[words]:
        monkeypatch.setattr(sys, "argv", [door, "--help"])
        with pytest.raises(SystemExit) as ended:
            if door.endswith(".py"):
                runpy.run_path(str(ROOT / door), run_name="__main__")
            else:
                runpy.run_module(door, run_name="__main__", alter_sys=True)
        assert ended.value.code == 0
        assert capsys.readouterr().out == expected


def test_every_command_has_its_doors() -> None:
    assert {one.words for one in COMMANDS if not one.words.startswith("data ")} == DOORS.keys()


@pytest.mark.slow
def test_the_working_folder_holds_no_module_of_ours(tmp_path: Path) -> None:
    """`convert.py` and a folder named like the package, beside which the command is typed."""
    (tmp_path / "convert.py").write_text("raise SystemExit('the wrong one')\n")
    (tmp_path / "jaxneox").mkdir()
    line = [sys.executable, "-m", "jaxneox", "inspect", "nowhere"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "nowhere" in done.stderr and "wrong" not in done.stderr


@pytest.mark.slow
def test_a_script_above_a_clone_imports_the_package(tmp_path: Path) -> None:
    """The clone has the package's name, and Python sees a folder before it sees the package."""
    above = ROOT.parent
    code = f"import sys; sys.path.insert(0, {str(above)!r}); import jaxneox; print(jaxneox.load)"
    if ROOT.name != "jaxneox":
        (tmp_path / "jaxneox").symlink_to(ROOT)
        code = code.replace(str(above), str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert "function load" in done.stdout, done.stderr


def test_a_printed_command_is_quoted() -> None:
    assert command("train", "my run", "--set", "a=b") == f"{program()} train 'my run' --set a=b"


def test_a_record_has_the_command_as_it_is_typed_anywhere() -> None:
    said("convert", "from_neox", "no where", "DST")
    assert typed_command() == f"{NAME} convert from-neox 'no where' DST"


def test_an_interrupt_while_modules_are_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(module: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert said("generate", "run") == (130, "", "interrupted before anything was done\n")


def test_help_of_a_command() -> None:
    assert said("help", "verify") == said("verify", "--help")
