"""What CONTRIBUTING.md says of a new axis: what it takes, and which files may name one."""

import ast
import dataclasses
import pathlib

import pytest

from jaxneox.errors import UserError
from jaxneox.parallel import mesh, rules
from jaxneox.parallel.mesh import Sizes
from tests.parallel.cases import LOSS, PARAMETER
from tests.parallel.meshes import MODEL, Mesh, apart, train

ROOT = pathlib.Path(__file__).resolve().parents[2] / "jaxneox"
NAME_AXES = {"parallel", "train", "plan", "infer", "evaluate"}
"""The packages that ask how many devices an axis has; all others know logical axes alone."""


class Wider(Mesh):
    """A mesh with one more axis, which splits the MLP."""

    @property
    def sizes(self) -> Sizes:
        return super().sizes | {"xp": 2}


@pytest.mark.slow
def test_a_new_mesh_axis_is_its_name_and_the_rows_that_it_splits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = dataclasses.replace(MODEL, num_layers=2, parallel_residual=False)
    expected = train(Mesh(), model)
    monkeypatch.setattr(mesh, "AXES", ("pp", "dp", "cp", "xp", "tp"))
    monkeypatch.setitem(rules.WEIGHTS, "mlp", "xp")
    monkeypatch.setitem(rules.ACTIVATIONS, "mlp", ("xp",))
    up = ("layers.mlp.up", ("layers", "embed", "mlp"), (2, 32, 64))
    laid = rules.rules_for(mesh.whole({"dp": 2, "xp": 2}), 1, False)
    assert laid.in_step(*up) == rules.P(None, None, "xp", reduced={"dp", "cp"})  # summed once
    found = train(Wider(dp=2, tp=2, zero=1), model)
    assert max(abs(a / b - 1) for a, b in zip(found.losses, expected.losses, strict=True)) <= LOSS
    assert max(apart(found.params, expected.params).values()) <= PARAMETER


def test_a_new_logical_axis_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    laid = rules.rules_for({"dp": 4, "tp": 2}, 1, False)
    expert = ("layers.mlp.up", ("layers", "experts", "embed", "mlp"), (2, 6, 32, 64))
    monkeypatch.setitem(rules.WEIGHTS, "experts", "dp")
    with pytest.raises(UserError, match="dp=4 does not divide its axis experts of 6"):
        laid.parameter(*expert)
    monkeypatch.setitem(rules.WEIGHTS, "experts", None)
    assert laid.parameter(*expert) == rules.P(None, None, None, "tp")
    assert laid.optimizer(*expert) == rules.P(None, None, "dp", "tp")


def test_no_other_package_names_a_mesh_axis() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        named = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and node.value in mesh.AXES
        }
        assert not named or path.relative_to(ROOT).parts[0] in NAME_AXES, path
