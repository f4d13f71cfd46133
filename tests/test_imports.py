"""Imports point down only, and nothing grows too large to be read."""

import ast
import pathlib
import re
import subprocess
import sys
from collections import Counter

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "jaxneox").rglob("*.py"))
CONVERT = sorted((ROOT / "convert").rglob("*.py"))

# What each part may import of the project, besides itself and EVERYWHERE.
BELOW: dict[str, set[str]] = {"errors": set(), "console": set(), "config": set(), "hlo": set()}
BELOW |= {part: {"config"} for part in ("model", "parallel", "data", "optim", "hosts")}
BELOW["data"] = {"config", "lfs"}
BELOW["templates"] = {"data"}
BELOW["preprocess"] = {"config", "data", "templates"}
BELOW["checksums"] = BELOW["literal"] = BELOW["damage"] = BELOW["lfs"] = set()
BELOW["reading"] = {"lfs"}
BELOW["npz"] = set()
EVERYWHERE = {"errors", "console", "reading", "npz"}
BELOW["foreign"] = {"lfs"}
BELOW["metadata"] = set()
BELOW["base_model"] = {"checksums"}
BELOW["run_folder"], BELOW["frozen"] = {"foreign"}, set()
BELOW["checkpoint"] = BELOW.keys() - {"errors", "preprocess", "hlo"}
BELOW["saver"] = {*BELOW["checkpoint"], "checkpoint"}
BELOW["infer"] = {"config", "model", "parallel", "data"}
BELOW["objectives"] = {"config", "model"}
BELOW["loading"] = {*BELOW["checkpoint"], "checkpoint", "foreign", "frozen", "infer", "saver"}
BELOW["train"] = {*BELOW["loading"], "loading", "evaluate", "hlo", "objectives", "saver"}
BELOW["compare"] = {"config", "run_folder", "train"}
BELOW["coord_check"] = {"config", "model", "objectives", "parallel", "train"}
BELOW["plan"] = {"config", "model", "parallel", "data", "hlo", "objectives", "train"}
for part in ("chat", "generate", "evaluate", "serve"):
    BELOW[part] = {*BELOW["loading"], "loading"}
BELOW["tune"] = {*BELOW["train"], "preprocess", "train"}
BELOW["precompute"] = {*BELOW["train"], "train"}
BELOW["cli"] = {""}
BELOW[""] = {"config", "data", "loading", "objectives", "train"}  # jaxneox/__init__.py

FOREIGN = {"torch", "transformers", "tests"}
OPENS_CONVERT = {"jaxneox.cli", "jaxneox.loading.exporting", "jaxneox.loading.load"}
"""Of jaxneox: what may import convert, and inside functions only."""

CONVERT_MAY = {"config", "console", "errors", "data", "model", "parallel", "optim", "checkpoint"}
CONVERT_MAY |= {
    "lfs",
    "npz",
    "reading",
    "literal",
    "run_folder",
    "saver",
    "base_model",
    "checksums",
}
CONVERT_ALSO = {
    "convert.scores": {"", "evaluate", "infer"},  # a command that measures; nothing imports it
    "convert.ours.program": {"", "loading"},  # runs the program that a user will run
    "convert.writers.training": {"train"},  # writes a run's state, and asks for its layout
}
TORCH = (
    *("convert.writers.neox", "convert.writers.torch_dist", "convert.writers.torch_save"),
    "convert.hf.program",
)
"""Of convert: what writes torch's files, or runs torch."""

SHARED_ROOMS = {"convert"} | {
    f"convert.{room}" for room in ("inspection", "oracle", "proof", "readers", "rules", "writers")
}
"""Of convert: all others are a family's own."""

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


def ours_in(names: set[str]) -> set[str]:
    """The parts of jaxneox among these modules."""
    return {part_of(name) for name in names if name.split(".")[0] == "jaxneox"}


def test_imports_point_down() -> None:
    """Doors (`__main__`) stand above all: they hand their words to the command line."""
    for path in MODULES:
        module, names = name_of(path), imported(path)
        here = part_of(module)
        if path.name == "__main__.py":
            assert ours_in(names) <= {here, "cli"}, module
            continue
        assert here in BELOW, f"{here!r} has no place in the order of imports yet"
        assert ours_in(names) <= BELOW[here] | EVERYWHERE | {here}, module
        assert not {name.split(".")[0] for name in names} & FOREIGN, module


def test_only_the_command_line_imports_convert_and_late() -> None:
    for path in MODULES:
        at_once = {
            alias.name if isinstance(node, ast.Import) else node.module
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not [name for name in at_once if name and name.split(".")[0] == "convert"], path
        names = {name.split(".")[0] for name in imported(path)}
        assert "convert" not in names or name_of(path) in OPENS_CONVERT, path


def test_convert_stands_on_what_a_checkpoint_is() -> None:
    """So that what opens foreign checkpoints can import it, and no circle closes."""
    for path in CONVERT:
        module = name_of(path)
        assert ours_in(imported(path)) <= CONVERT_MAY | CONVERT_ALSO.get(module, set()), module


def test_only_what_writes_or_runs_torch_imports_it() -> None:
    """Reading a checkpoint needs no torch, and the oracle neither torch nor the model it judges."""
    for path in CONVERT:
        names = imported(path)
        if name_of(path) not in TORCH:
            assert not {name.split(".")[0] for name in names} & {"torch", "transformers"}, path
        if "oracle" in path.parts:
            ours = {name for name in names if name.split(".")[0] in ("jaxneox", "convert", "jax")}
            alone = ("convert.oracle", "jaxneox.config", "jaxneox.errors")
            assert all(name.startswith(alone) for name in ours), path


def test_the_ways_of_convert_know_no_family() -> None:
    """What every conversion and every proof goes through sees a Source, a Target, a Checkpoint."""
    rooms = {name_of(path.parent) for path in CONVERT} - SHARED_ROOMS  # a family each
    kinds = (*rooms, "convert.readers", "convert.rules")
    for path in CONVERT:
        module, names = name_of(path), imported(path) - {"convert.readers.digest"}
        if module.startswith("convert.proof"):
            assert not [n for n in names if n.startswith(kinds)], path
        if module == "convert.conversion":
            assert not [name for name in names if name.startswith(kinds)], path
        if module.startswith("convert.rules"):
            below = ("convert.rules", "convert.parts")
            assert all(n.startswith(below) for n in names if n.startswith("convert.")), path


def test_modules_and_functions_stay_short() -> None:
    for path in MODULES + CONVERT:
        text = path.read_text()
        assert len(text.splitlines()) <= LONGEST_MODULE, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                assert lines <= LONGEST_FUNCTION, f"{path}: {node.name} has {lines} lines"


def test_a_package_lists_its_modules() -> None:
    """The docstring of `__init__` names them all in backticks: the map of the package."""
    packages = [path for path in MODULES + CONVERT if path.name == "__init__.py"]
    for package in packages:
        text = package.read_text()
        if package.parent == ROOT / "jaxneox":  # its map is that of the whole, in CONTRIBUTING.md
            text = (ROOT / "CONTRIBUTING.md").read_text()
            named = set(re.findall(r"[\w]+", text.partition("```")[2].partition("```")[0]))
        else:
            named = set(re.findall(r"`(\w+)/?`", ast.get_docstring(ast.parse(text)) or ""))
        there = {path.stem for path in package.parent.glob("*.py") if path.stem[0] != "_"}
        there |= {path.parent.name for path in package.parent.glob("*/__init__.py")}
        assert there <= named, f"{package}: {sorted(there - named)}"


def test_a_name_is_one_class() -> None:
    """Only what the model asks of `parallel` bears the name of what answers."""
    names = Counter(
        node.name
        for path in MODULES + CONVERT
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in names.items() if count > 1} == {
        "Pipeline",
        "Ring",
        "RowExchange",
    }


@pytest.mark.slow
def test_importing_jaxneox_imports_nothing_heavy() -> None:
    code = "import jaxneox, sys; print({'jax', 'flax', 'orbax', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
