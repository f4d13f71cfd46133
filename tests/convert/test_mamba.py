"""NeoX's mamba layers: its own files and logits, its training, and the way back to the byte.

NeoX cannot evaluate such models, so that the golden logits are those of its training mode, which
has no dropout in these layers.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import jaxneox
from convert import from_neox, to_neox
from convert.readers.neox_open import open_neox
from convert.rules import neox
from jaxneox.optim.optimizer import decays
from tests.convert.commands import call, run
from tests.convert.continued import go_on
from tests.convert.golden import find_case
from tests.reference.compare import relative_l2

CASES = ["mamba_mp1", "mamba_mixed_mp2", "mamba_bias_mp2", "mamba_pp2"]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convert.proof.certificate.picture", lambda record, path: None)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_neox(converted, name: str) -> None:
    case, dst = converted(name)
    with np.load(case.folder / "golden.npz") as golden:
        tokens, expected = golden["tokens"], golden["logits_train_mode"]
    logits = np.asarray(jaxneox.load(dst)(tokens))
    # two float32 programs over four layers: as for attention, and the scan adds up 32 tokens
    assert relative_l2(logits, expected) <= 2e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("mamba_mp1", "dp=1"),
        ("mamba_mixed_mp2", "dp=2,tp=2"),
        ("mamba_bias_mp2", "dp=1"),
        ("mamba_bias_mp2", "dp=2,tp=2"),
        ("mamba_pp2", "dp=1"),
    ],
)
def test_follows_the_curve_of_neox(tmp_path: Path, name: str, mesh: str) -> None:
    """Five steps of Adam; measured 5e-7 and 1e-6. The bounds are those of all other cases."""
    found = go_on(name, tmp_path, mesh)
    assert found.loss <= 3e-6 and found.logits <= 2e-5 and found.rate <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_files_come_back_to_the_byte(converted, tmp_path: Path, name: str) -> None:
    case, ours = converted(name)
    before = open_neox(case.folder)
    call(to_neox, ours, tmp_path / "there", "--mp", before.mp, "--pp", max(before.pp, 1))
    after = open_neox(tmp_path / "there")
    assert after.model == before.model and after.shards.keys() == before.shards.keys()
    for index in before.shards:
        for rank, (found, expected) in enumerate(
            zip(after.ranks(index), before.ranks(index), strict=True)
        ):
            expected = {n: t for n, t in expected.items() if n not in neox.BUFFERS}
            assert found.keys() == expected.keys()
            for tensor, value in expected.items():
                assert found[tensor].tobytes() == value.tobytes(), (index, rank, tensor)


@pytest.mark.slow
def test_adams_moments_come_back_in_neox_order(tmp_path: Path) -> None:
    case = find_case("mamba_bias_mp2", optimizer=True)
    call(from_neox, case.folder, tmp_path / "run", "--optimizer", "--no-verify")
    flags = ("--mp", 2, "--pp", 1, "--optimizer", "--no-verify")
    call(to_neox, tmp_path / "run", tmp_path / "there", *flags)
    name = "mp_rank_01_model_states.pt"
    found, expected = (
        torch.load(next(folder.glob(f"global_step*/{name}")), weights_only=False)["optimizer"]
        for folder in (tmp_path / "there", case.folder)
    )
    assert found["state"].keys() == expected["state"].keys()
    for number, state in expected["state"].items():
        for quantity in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(found["state"][number][quantity], state[quantity]), number


@pytest.mark.parametrize("name", CASES)
def test_what_decays_is_what_decays_in_neox(name: str) -> None:
    case = find_case(name)
    model = open_neox(case.folder).model
    rules = {i: {r.theirs: r for r in own} for i, own in neox.modules(model).items()}
    for params in json.loads((case.folder / "case.json").read_text())["params"].values():
        for where, fact in params.items():
            index, _, theirs = where.partition(".")
            if not index.isdecimal():  # the embedding of a tied model
                continue
            (leaf, *_) = rules[int(index)][theirs].leaves
            assert decays(leaf) == (fact["weight_decay"] > 0), where


def test_other_ranks_than_groups_are_refused(converted, tmp_path: Path) -> None:
    _, ours = converted("mamba_mixed_mp2")
    said = run(to_neox, ours, tmp_path / "there", "--mp", 1)
    assert said.status != 0
    assert "have 2 groups of channels, which NeoX computes at as many ranks: use --mp 2" in (
        said.error
    )


def test_groups_in_a_yaml_of_neox_are_refused(tmp_path: Path) -> None:
    case = find_case("mamba_mixed_mp2")
    keys = yaml.safe_load((case.folder / "neox_config.yml").read_text())
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump(keys | {"mamba-groups": 1}))
    said = run(from_neox, case.folder, tmp_path / "dst", "--config", config)
    assert "mamba_groups is not a key of NeoX; leave it out" in said.error
