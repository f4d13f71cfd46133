"""Imports point down only, and nothing grows too large to be read."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "jaxneox").rglob("*.py"))
CONVERT = sorted((ROOT / "convert").rglob("*.py"))

# What each part may import of the project, besides itself; every part may import errors and console.
BELOW: dict[str, set[str]] = {"errors": set(), "console": set(), "config": set(), "hlo": set()}
BELOW |= {part: {"config"} for part in ("model", "parallel", "data", "optim", "hosts")}
BELOW["preprocess"] = {"config", "data"}
BELOW["checksums"] = BELOW["literal"] = BELOW["damage"] = BELOW["foreign"] = set()
BELOW["places"] = {"foreign"}
BELOW["checkpoint"] = BELOW.keys() - {"errors", "preprocess", "hlo"}
BELOW["infer"] = {"config", "model", "parallel", "data"}
BELOW["loading"] = {*BELOW["checkpoint"], "checkpoint", "infer"}
BELOW["train"] = {*BELOW["loading"], "evaluate", "hlo"}
BELOW["plan"] = {"config", "model", "parallel", "data", "hlo", "train"}
for part in ("generate", "evaluate", "serve"):
    BELOW[part] = {*BELOW["loading"], "loading"}
BELOW["cli"] = {*BELOW["train"], "train", "loading"}
BELOW[""] = {"config", "loading"}  # jaxneox/__init__.py

FOREIGN = {"torch", "transformers", "convert", "tests"}
TORCH = (
    *("convert.writers.neox", "convert.writers.torch_dist", "convert.writers.torch_save"),
    "convert.proof.program",
)
"""Of convert: what writes torch's files, or runs torch."""

LONGEST_MODULE, LONGEST_FUNCTION = 300, 60


def part_of(module: str) -> str:
    """jaxneox.model.block -> model; jaxneox itself -> the empty string."""
    return [*module.split("."), ""][1]


def imported(path: pathlib.Path) -> set[str]:
    """The dotted names of all modules that a file imports, also inside functions.

    `from package import name` counts as package.name, since name may be a module.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"
            inside = node.module == "jaxneox"
            names |= {f"jaxneox.{a.name}" for a in node.names} if inside else {node.module}
    return names


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: pathlib.Path) -> None:
    here = part_of(name_of(path))
    assert here in BELOW, f"{here!r} has no place in the order of imports yet"
    names = imported(path)
    parts = {part_of(name) for name in names if name.split(".")[0] == "jaxneox"}
    assert parts <= BELOW[here] | {here, "errors", "console"}
    assert not {name.split(".")[0] for name in names} & FOREIGN


@pytest.mark.parametrize("path", CONVERT, ids=name_of)
def test_only_what_writes_or_runs_torch_imports_it(path: pathlib.Path) -> None:
    """Reading a checkpoint needs no torch, and the oracle neither torch nor the model it judges."""
    names = imported(path)
    if name_of(path) not in TORCH:
        assert not {name.split(".")[0] for name in names} & {"torch", "transformers"}
    if "oracle" in path.parts:
        ours = {name for name in names if name.split(".")[0] in ("jaxneox", "convert", "jax")}
        assert all(
            n.startswith(("convert.oracle", "jaxneox.config", "jaxneox.errors")) for n in ours
        )


@pytest.mark.parametrize("path", MODULES + CONVERT, ids=name_of)
def test_modules_and_functions_stay_short(path: pathlib.Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{node.name} has {lines} lines"


def test_importing_jaxneox_imports_nothing_heavy() -> None:
    code = "import jaxneox, sys; print({'jax', 'flax', 'orbax', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
