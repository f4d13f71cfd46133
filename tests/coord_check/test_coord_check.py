"""Activations keep their size with muP and do not without, and what the command says of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from jaxneox.coord_check import command
from jaxneox.coord_check.growth import exponent, growths
from jaxneox.coord_check.measure import Coordinates
from tests.convert.commands import Said, call
from tests.convert.commands import run as tried

KEYS: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "seq_length": 16,
    "max_position_embeddings": 16,
    "pos_emb": "rotary",
    "no_weight_tying": True,
    "padded_vocab_size": 64,
    "init_method_std": 0.05,
    "optimizer": {"type": "Adam", "params": {"lr": 0.01}},
    "train_batch_size": 1024,
    "train_iters": 1000,
    "use_mup": True,
    "mup_base_hidden_size": 64,
}


def test_exponents() -> None:
    assert exponent((64, 256), (1.0, 4.0)) == pytest.approx(1.0)
    assert exponent((64, 128, 256), (2.0, 2.0, 2.0)) == pytest.approx(0.0, abs=1e-12)
    assert exponent((64, 256), (1.0, float("nan"))) == float("inf")
    still = Coordinates({"x": [1.0, 1.0]}, {"x": [0.0, 0.5]})
    doubled = Coordinates({"x": [3.0, 1.0]}, {"x": [0.0, 1.0]})
    (growth,) = growths({64: still, 128: doubled})
    assert (growth.first, growth.moved, growth.is_flat) == ((1.0, 3.0), ((0.5, 1.0),), False)


def checked(tmp_path: Path, *words: str, **changes: Any) -> dict[str, Any]:
    config = tmp_path / "mup.yml"
    config.write_text(yaml.safe_dump(KEYS | changes))
    said: Said = call(command, config, "--widths", "64", "256", "--steps", "2", "--json", *words)
    found: dict[str, Any] = json.loads(said.out)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_flat_with_mup_and_not_without(tmp_path: Path, tied: bool) -> None:
    changes = {"no_weight_tying": not tied}
    assert checked(tmp_path, "--png", str(tmp_path / "coords.png"), **changes)["flat"]
    assert (tmp_path / "coords.png").stat().st_size > 1000
    plain = checked(tmp_path, "--set", "use_mup=false", **changes)
    assert not plain["flat"]
    names = [one["name"] for one in plain["activations"]]
    assert names == ["layers.0.residual", "layers.1.residual", "logits"]
    assert all(one["exponent"] > 0.5 for one in plain["activations"])


@pytest.mark.slow
def test_neoxs_logits_are_not_flat(tmp_path: Path) -> None:
    """NeoX HEAD leaves out the multiplier of an untied head."""
    *layers, logits = checked(tmp_path, neox_compat=True)["activations"]
    assert logits["name"] == "logits" and logits["exponent"] > 0.4
    assert all(np.abs(one["exponent"]) < 0.25 for one in layers)


def test_what_it_refuses(tmp_path: Path) -> None:
    config = tmp_path / "mup.yml"
    config.write_text(yaml.safe_dump(KEYS))
    assert "expected two or more" in tried(command, config, "--widths", "64").error
    odd = tried(command, config, "--widths", "64", "65").error
    assert "num_attention_heads 4 does not divide hidden_size 65" in odd
    dpo = tried(command, config, "--set", "train_impl=dpo").error
    assert "train_impl must be normal" in dpo
