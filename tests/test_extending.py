"""What docs/extending.md promises: its files exist, and a forgotten entry shows."""

import pathlib
import re
from collections.abc import Collection
from typing import Any, get_args

import pytest

from convert.hf.families import FAMILIES
from convert.inspection.facts import TITLES
from convert.inspection.recognise import SIGNS
from convert.oracle import maths
from jaxneox import foreign
from jaxneox.config import optimization, rope
from jaxneox.config.keys import model as keys
from jaxneox.config.layer_schema import Activation, NormKind
from jaxneox.config.optimization_schema import OptimizerKind
from jaxneox.config.schema import RopeType
from jaxneox.model import mlp, norms
from jaxneox.optim import optimizer

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/extending.md"

TABLES: dict[str, tuple[Any, Collection[str]]] = {
    "activations of the model": (Activation, mlp.ACTIVATIONS),
    "activations of the oracle": (Activation, maths.ACTIVATIONS),
    "activations by NeoX's names": (
        Activation,
        {
            *keys.PLAIN_ACTIVATIONS.values(),
            *keys.GATED_ACTIVATIONS.values(),
            "gelu_tanh",
        },  # by bias_gelu_fusion
    ),
    "norms": (NormKind, norms.KINDS),
    "optimizers": (OptimizerKind, optimizer.UPDATES),
    "optimizers' parameters": (OptimizerKind, optimization.PARAMS),
    "rope scaling": (RopeType, rope.NEEDED),
}
"""What a configuration may name, and where each of these names must have an entry."""


@pytest.mark.parametrize("table", TABLES)
def test_every_choice_has_its_entry(table: str) -> None:
    choices, entries = TABLES[table]
    assert set(entries) == set(get_args(choices))


def test_every_program_is_recognised_wherever_it_may_be_met() -> None:
    """By inspect, and where a run of ours was expected: there with the command that converts it.

    An adapter of PEFT is no checkpoint: `inspect` says so, with the same command.
    """
    assert SIGNS.keys() == TITLES.keys()
    others = {title for kind, title in TITLES.items() if kind != "jaxneox"}
    assert {kind.title for kind in foreign.KINDS} == others | {"PEFT"}


def test_every_family_of_hugging_face_is_documented() -> None:
    text = (ROOT / "docs/conversion.md").read_text()
    assert not [one.architecture for one in FAMILIES if f"| `{one.architecture}`" not in text]


def test_the_files_that_the_page_names_exist() -> None:
    """A path is a word in backticks with a slash; `{a,b}` names several, X is yours to name."""
    words = re.findall(r"`([\w./{},*-]+/[\w./{},*-]*)`", PAGE.read_text())
    paths = [path for word in words if "X" not in word for path in braces(word)]
    assert len(paths) > 40
    assert not [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]


def braces(word: str) -> list[str]:
    """`a/{b,c}.py` -> a/b.py, a/c.py."""
    if not (found := re.search(r"\{(.*?)\}", word)):
        return [word]
    start, end = word[: found.start()], word[found.end() :]
    return [path for one in found[1].split(",") for path in braces(f"{start}{one}{end}")]
