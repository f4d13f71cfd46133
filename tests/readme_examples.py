"""Every example of the README runs with what the repository has: `make examples`.

The shipped default is shortened, the server is only asked whether it understands its words, and
so is what needs a package that is not here.
"""

import contextlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxneox import cli
from jaxneox.cli import COMMANDS
from jaxneox.config import shipped
from tests.console.test_commands import parser_of

pytest.importorskip("torch", reason="NeoX's files are written with torch")

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
NOT_HERE = {"v5p": "libtpu", "h100": "jax_plugins"}
ELSEWHERE = ("pip install", "make ")
SHELL = ("for ",)
"""How lines begin that are the shell's own."""


def blocks(language: str) -> Iterator[str]:
    for found in re.finditer(rf"```{language}\n(.*?)```", README, re.DOTALL):
        yield found[1].replace("\\\n", " ")


def commands() -> list[str]:
    return [
        line.split("  #")[0].strip()
        for block in blocks("sh")
        for line in block.splitlines()
        if line.strip() and not line.startswith(ELSEWHERE)
    ]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the repository's content, and a shorter default training."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("tests", "docs"):
        (folder / name).symlink_to(ROOT / name)
    configs = folder / "configs"
    configs.mkdir()
    for path in (ROOT / "configs").glob("*.yml"):
        (configs / path.name).symlink_to(path)
    quick = (ROOT / "configs" / "stdlib.yml").read_text()
    for long, short in (
        ('"train-iters": 300', '"train-iters": 8'),
        ('"num-layers": 4', '"num-layers": 1'),
        ('"hidden-size": 128', '"hidden-size": 32'),
        ('"eval-iters": 4', '"eval-iters": 0'),
    ):
        assert long in quick
        quick = quick.replace(long, short)
    (configs / "stdlib.yml").unlink()
    (configs / "stdlib.yml").write_text(quick)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipped, "folder", lambda: configs)
        yield folder


@pytest.mark.slow
def test_shell(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(commands()) > 20
    for line in commands():
        if line.startswith(SHELL):
            subprocess.run(line, shell=True, check=True, cwd=clone)
            continue
        name, *words = shlex.split(line.replace("train-iters=400", "train-iters=10"))
        assert name == "jaxneox", line
        (one,) = [c for c in COMMANDS if f"{shlex.join(words)} ".startswith(f"{c.words} ")] or [
            None
        ]
        absent = [package for word, package in NOT_HERE.items()
                  if word in line and importlib.util.find_spec(package) is None]  # fmt: skip
        if one is not None and (one.words == "serve" or absent):
            parser_of(one).parse_args(words[len(one.words.split()) :])
        elif one is not None and one.words == "plan":  # settles its own number of devices
            subprocess.run([sys.executable, "-m", "jaxneox", *words], check=True, cwd=clone)
        else:
            with pytest.raises(SystemExit) as ended:
                cli.main(words)
            assert ended.value.code == 0, f"{line}: {capsys.readouterr().err}"


@pytest.mark.slow
def test_python(clone: Path) -> None:
    """After the shell's examples, whose run it opens."""
    (block,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["other"].params.keys() == names["model"].params.keys()  # type: ignore[attr-defined]
