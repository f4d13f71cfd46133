"""Runs with muP: they resume bit for bit, keep their base, and become plain models."""

from pathlib import Path

import numpy as np
import pytest
import yaml

import jaxneox
from convert import fold_mup, merge_adapter, to_hf, to_neox, verify
from tests.convert.commands import call
from tests.convert.commands import run as tried
from tests.train.runs import assert_same_run, error, losses, params, succeeds, write_yaml

ONE = ("--mesh", "dp=1")
KEYS = {
    "use_mup": True,
    "mup_embedding_mult": 3.0,
    "mup_output_temp": 2.0,
    "mup_attn_temp": 0.25,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run `whole` with a file of base shapes, of its YAML and its data."""
    folder = tmp_path_factory.mktemp("mup")
    base = folder / "base"
    narrow = write_yaml(folder, hidden_size=8, save_base_shapes=True, base_shapes_file=str(base))
    assert "base shapes of width 8" in succeeds(narrow)
    config = write_yaml(folder, **KEYS, base_shapes_file=str(base))
    succeeds(config, *ONE, "--save", folder / "whole")
    (folder / "base.0").unlink()  # what is saved needs it no more
    return folder


def test_a_run_keeps_the_sizes_of_its_base(wide: Path) -> None:
    saved = yaml.safe_load((wide / "whole/config.yml").read_text())
    assert (saved["mup_base_hidden_size"], saved["mup_base_mlp_size"]) == (8, 32)
    assert "base_shapes_file" not in saved
    assert losses(wide / "whole")[-1] < losses(wide / "whole")[0]
    model = jaxneox.load(wide / "whole")
    assert model.config.model.multipliers.output == 1 / 4 / 2
    answer = model.generate("quick ", max_tokens=4)[0].text
    assert answer == model.generate("quick ", max_tokens=4, recompute=True)[0].text


@pytest.mark.slow
def test_it_goes_on_bit_for_bit(wide: Path) -> None:
    short = ("--set", "exit-interval=5")
    config = write_yaml(wide, **KEYS, mup_base_hidden_size=8)
    succeeds(config, *ONE, "--save", wide / "parts", *short)
    succeeds(wide / "parts", *ONE, "--set", "exit-interval=null")
    assert_same_run(wide / "parts", wide / "whole")


def test_another_base_is_another_function(wide: Path) -> None:
    change = ("--set", "mup_base_hidden_size=16", "train-iters=14")
    assert "multipliers.output is 0.125 there and 0.25 here" in error(wide / "whole", *ONE, *change)
    line = error(wide / "whole", *ONE, "--set", "use_mup=false", "train-iters=14")
    assert "is a checkpoint of another model" in line


@pytest.mark.slow
def test_it_becomes_a_plain_model(wide: Path, tmp_path: Path) -> None:
    """Each multiplier is a part of a weight; without that, no other program has the function."""
    pytest.importorskip("torch", reason="to-hf and to-neox write by torch")
    run, plain = wide / "whole", tmp_path / "plain"
    for other in (to_hf, to_neox):
        assert "convert fold-mup" in tried(other, run, tmp_path / "refused").error
    said = call(fold_mup, run, plain).out
    assert said.startswith("embed.tokens, layers.attention.qkv, layers.attention.qkv_bias, ")
    call(verify, run, plain)
    call(to_hf, plain, tmp_path / "hf")
    call(verify, run, tmp_path / "hf")
    before, after = params(run), params(plain)
    np.testing.assert_allclose(after["embed.tokens"], 3 * before["embed.tokens"], rtol=1e-7)
    np.testing.assert_array_equal(after["unembed.weight"], before["unembed.weight"] / 8)
    assert "has no multipliers" in tried(fold_mup, plain, tmp_path / "again").error


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"no_weight_tying": False, "pos_emb": "learned", "mup_rp_embedding_mult": 0.5},
        {"no_weight_tying": False, "norm": "rmsnorm", "qk_norm_per_head": True},
        {"use_qk_layernorm": True, "no_weight_tying": True},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_other_models_become_plain(wide: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    config = write_yaml(wide, **(KEYS | {"mup_base_hidden_size": 8, "train_iters": 3} | changes))
    succeeds(config, *ONE, "--save", tmp_path / "run")
    assert "the same function" in call(fold_mup, tmp_path / "run", tmp_path / "plain").out


@pytest.mark.slow
def test_lora_beside_it(wide: Path, tmp_path: Path) -> None:
    """Its base keeps its multipliers, and so does the model that both become."""
    block = {"rank": 2, "alpha": 8}
    config = write_yaml(wide, **KEYS, mup_base_hidden_size=8, lora=block)
    succeeds(config, *ONE, "--load", wide / "whole", "--save", tmp_path / "lora")
    assert losses(tmp_path / "lora")[-1] < losses(wide / "whole")[0]
    assert "the same function" in call(merge_adapter, tmp_path / "lora", tmp_path / "merged").out
    merged = jaxneox.load(tmp_path / "merged")
    assert merged.config.model == jaxneox.load(wide / "whole").config.model
    assert "the same function" in call(fold_mup, tmp_path / "merged", tmp_path / "plain").out


def test_what_no_weight_can_take(wide: Path, tmp_path: Path) -> None:
    keys = KEYS | {"mup_base_hidden_size": 8, "train_iters": 1, "warmup": 0.0}
    config = write_yaml(wide, **keys, pos_emb="sinusoidal", mup_rp_embedding_mult=0.5)
    succeeds(config, *ONE, "--save", tmp_path / "run")
    said = tried(fold_mup, tmp_path / "run", tmp_path / "plain")
    assert "which no weight can take" in said.error
