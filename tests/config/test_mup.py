"""muP's keys: what each comes to, its base from sizes and from files, and what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from jaxneox.config import Config, Settings, load_yaml, saved_keys
from jaxneox.config.widths import Multipliers, Widths
from jaxneox.errors import UserError
from jaxneox.train.base_shapes import save_base_shapes

KEYS: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "seq_length": 16,
    "max_position_embeddings": 16,
    "pos_emb": "learned",
    "padded_vocab_size": 128,
    "train_iters": 10,
    "train_micro_batch_size_per_gpu": 1,
    "optimizer": {"type": "Adam", "params": {"lr": 0.01}},
    "use_mup": True,
    "mup_base_hidden_size": 16,
}
FACTORS = {
    "mup_init_scale": 1.5,
    "mup_attn_temp": 2.0,
    "mup_output_temp": 3.0,
    "mup_embedding_mult": 5.0,
    "mup_rp_embedding_mult": 0.5,
}


def resolved(**changes: Any) -> Config:
    return Settings(KEYS | changes).resolve(dp=1, vocab_size=None)


def error(**changes: Any) -> str:
    with pytest.raises(UserError) as raised:
        resolved(**changes)
    return str(raised.value)


def test_each_key_does_what_its_name_says() -> None:
    cfg = resolved(**FACTORS)
    assert cfg.model.init.scale == 1.5 and not cfg.notes
    assert cfg.model.init.widths == cfg.optimizer.widths == Widths(4.0, 4.0, 4.0)
    assert cfg.model.multipliers == Multipliers(5.0, 0.5, output=1 / 4 / 3)
    assert cfg.model.attention.score_scale == 1 / 16 / 2
    assert resolved().model.attention.score_scale == 1 / 16
    assert resolved(use_mup=False).model.attention.score_scale == 1 / math.sqrt(16)


@pytest.mark.parametrize("tied", [True, False])
def test_with_neox_compat_each_does_what_neox_does(tied: bool) -> None:
    cfg = resolved(**FACTORS, neox_compat=True, no_weight_tying=not tied)
    assert cfg.model.init.widths == Widths(4.0, 4.0, 4.0, as_neox=True)
    assert cfg.model.multipliers == Multipliers(1.0, 0.5, 1 / 4 if tied else 1.0)
    assert cfg.model.attention.scale is None
    unused = ("mup_attn_temp", "mup_output_temp", "mup_embedding_mult")
    assert [note.partition(":")[0] for note in cfg.notes] == list(unused)


def test_without_use_mup_they_change_nothing_and_say_so() -> None:
    changed = resolved(use_mup=False, **FACTORS)
    assert changed.model == resolved(use_mup=False).model
    assert all("changes nothing: use_mup is not set" in note for note in changed.notes)
    assert len(changed.notes) == len(FACTORS) + 1  # and the base's size
    as_neox = resolved(use_mup=False, neox_compat=True, mup_rp_embedding_mult=0.5)
    assert as_neox.model.multipliers.positions == 0.5  # NeoX does not look at use_mup here


def test_a_reward_model_has_no_temperature() -> None:
    cfg = resolved(**FACTORS, train_impl="rm", no_weight_tying=True)
    assert cfg.model.multipliers == Multipliers(5.0, 0.5, 1 / 4)


def test_the_base_must_be_known() -> None:
    assert "found neither" in error(mup_base_hidden_size=None)
    assert "found both" in error(base_shapes_file="some")
    assert "there is neither such a file nor absent.0" in error(
        mup_base_hidden_size=None, base_shapes_file="absent"
    )


def test_widths_that_are_no_multiple() -> None:
    assert resolved(intermediate_size=130).model.init.widths == Widths(4.0, 4.0, 4.0)
    assert resolved(intermediate_size=130, mup_base_mlp_size=0).model.init.widths.mlp is None
    assert resolved(intermediate_size=130, mup_base_mlp_size=65).model.init.widths.mlp == 2.0


@pytest.mark.parametrize("kind", ["sgd", "sm3", "adafactor", "muon"])
def test_optimizers_without_a_rule_are_refused(kind: str) -> None:
    optimizer = {"type": kind, "params": {"lr": 0.01}}
    assert f"use_mup with optimizer.type {kind}" in error(optimizer=optimizer)


def test_parts_without_a_rule_are_refused() -> None:
    assert "use_mup with init_method xavier_normal" in error(init_method="xavier_normal")
    orthogonal = {"output_layer_init_method": "scaled_orthogonal"}
    assert "use_mup with output_layer_init_method" in error(**orthogonal)
    assert "use_mup with pos_emb rpe" in error(pos_emb="rpe")
    assert "expected adam" in error(
        neox_compat=True, optimizer={"type": "lion", "params": {"lr": 0.01}}
    )
    assert error(mup_output_temp=0.0) == "mup_output_temp: found 0, expected a number above 0"


# Base shapes


def base_file(folder: Path, **changes: Any) -> str:
    """Write those of the model at a width of 16."""
    path = str(folder / "base")
    narrow = KEYS | {"hidden_size": 16, "base_shapes_file": path} | changes
    save_base_shapes(Settings({n: v for n, v in narrow.items() if n != "mup_base_hidden_size"}))
    return path


def from_file(path: str, **changes: Any) -> Config:
    return resolved(mup_base_hidden_size=None, base_shapes_file=path, **changes)


MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gated": {"activation": "swiglu", "expansion_factor": 6, "norm": "rmsnorm"},
    "grouped": {"num_kv_heads": 2, "no_weight_tying": True, "pos_emb": "rotary"},
    "tied norms": {"gpt_j_residual": True, "gpt_j_tied": True, "norm": "scalenorm"},
    "ranks": {"model_parallel_size": 2},
    "pipeline": {"pipe_parallel_size": 1},
    "norms of queries": {"use_qk_layernorm": True},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_file_and_a_size_are_the_same(name: str, tmp_path: Path) -> None:
    path = base_file(tmp_path, **MODELS[name])
    by_file, by_size = from_file(path, **MODELS[name]), resolved(**MODELS[name])
    assert by_file.model == by_size.model
    saved = saved_keys(by_file)
    assert "base_shapes_file" not in saved and saved["mup_base_hidden_size"] == 16
    assert Settings(saved).resolve(dp=1, vocab_size=None).model == by_file.model


def test_a_given_size_of_the_mlp_is_fixed_in_a_file(tmp_path: Path) -> None:
    cfg = from_file(base_file(tmp_path, intermediate_size=96), intermediate_size=96)
    assert cfg.model.init.widths == Widths(4.0, 4.0, None)
    saved = Settings(saved_keys(cfg)).resolve(dp=1, vocab_size=None)
    assert saved.model == cfg.model


def test_files_of_another_model_are_refused(tmp_path: Path) -> None:
    path = base_file(tmp_path)
    for changes, why in (
        ({"num_layers": 3}, "only one of both has 4.attention.dense.bias"),
        ({"no_weight_tying": True}, "final_linear.weight"),
        ({"pos_emb": "rotary"}, "0.position_embeddings.weight"),
    ):
        with pytest.raises(UserError, match="is not of this model at another width") as raised:
            from_file(path, **changes)
        assert why in str(raised.value)
    file = Path(f"{path}.0")
    content = yaml.safe_load(file.read_text())
    content["sequential.2.mlp.linear1.weight"] = [48, 16]
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"2\.mlp\.linear1\.weight is \[48, 16\], expected"):
        from_file(path)
    for text in ("[1, 2]", "a: {b: 1}", "a: [0]", "a: [", "a: ['1']"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"base\.0"):
            from_file(path)


@pytest.mark.parametrize(
    "case", ["mup_untied_mp1", "mup_untied_mp2", "mup_learned_mp1", "mup_tied_pp1_mp1"]
)
def test_files_of_neox(shared: Path, case: str, tmp_path: Path) -> None:
    """Those that NeoX wrote are read, and written again they are the same."""
    golden = shared / "golden/neox_posttrain"
    keys = load_yaml([golden / case / "neox_config.yml"]) | {"padded_vocab_size": 512}
    given = golden / "common/mup" / Path(keys["base_shapes_file"]).name
    model = Settings(keys | {"base_shapes_file": str(given)}).model(None)
    assert model.init.widths == Widths(2.0, 2.0, 2.0)
    narrow = {"hidden_size": 32, "base_shapes_file": str(tmp_path / given.name)}
    save_base_shapes(Settings(keys | narrow))
    files = sorted(given.parent.glob(f"{given.name}.*"))
    assert len(files) == keys["model_parallel_size"]
    for file in files:
        ours = tmp_path / file.name
        assert yaml.safe_load(ours.read_text()) == yaml.safe_load(file.read_text())
