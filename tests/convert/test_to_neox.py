"""Files for NeoX at any mp and pp: what they compute, and that nothing is lost on the way back."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from convert import from_neox, to_neox
from convert.neox.split import divided
from convert.oracle import NeoxForward
from convert.oracle import run as forward
from convert.readers.jaxneox import open_jaxneox
from convert.readers.neox_open import open_neox
from tests.convert.commands import call, run
from tests.convert.golden import BFLOAT16, FLOAT32, HERE
from tests.convert.hf_models import LLAMA, write_run
from tests.convert.synthetic import Synthetic
from tests.reference.compare import relative_l2


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the time of converting a tiny model; test_from_neox.py looks at them."""
    monkeypatch.setattr("convert.proof.certificate.picture", lambda record, path: None)


LAYOUTS = [*itertools.product((1, 2, 4), (0, 1, 2))]
SOME = [(1, 2), (2, 0), (4, 1)]
THOROUGH = {path.name for path in HERE.iterdir()}
"""Cases of which every layout is tried; of the others, every mp and every pp."""

LOGIT_BIAS = "pythia_mp2_drift"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FLOAT32, *BFLOAT16])
def test_every_layout_computes_the_golden_logits_and_comes_back(
    converted, tmp_path, name: str
) -> None:
    case, ours = converted(name)
    before = open_jaxneox(ours)
    for mp, pp in LAYOUTS if name in THOROUGH else SOME:
        if before.model.attention.kv_heads % mp or (name == LOGIT_BIAS and mp == 1):
            continue
        there, back = tmp_path / f"{mp}-{pp}", tmp_path / f"{mp}-{pp}-back"
        call(to_neox, ours, there, "--mp", mp, "--pp", pp, "--no-verify")
        files = open_neox(there)
        assert (files.mp, files.pp) == (mp, pp)
        logits = forward(NeoxForward(files.model, files.ranks), case.tokens)
        assert relative_l2(logits, case.logits) <= (8e-3 if name in BFLOAT16 else 1e-6)
        if name == LOGIT_BIAS:
            continue  # folding has the same function in other numbers
        call(from_neox, there, back, "--no-verify")
        assert_same_bits(before, open_jaxneox(back))


@pytest.mark.parametrize("name", ["seqres_mp2", "legacy_v2_mp2"])
def test_the_names_of_2023_come_back_too(converted, tmp_path, name: str) -> None:
    _, ours = converted(name)
    call(to_neox, ours, tmp_path / "there", "--mp", 2, "--names", "2023", "--no-verify")
    layer = tmp_path / "there" / "global_step5" / "layer_02-model_00-model_states.pt"
    names = set(torch.load(layer, weights_only=True))
    assert "mlp.dense_h_to_4h.weight" in names and "attention.rotary_emb.inv_freq" in names
    call(from_neox, tmp_path / "there", tmp_path / "back", "--no-verify")
    assert_same_bits(open_jaxneox(ours), open_jaxneox(tmp_path / "back"))


def test_a_folded_model_needs_its_number_of_ranks(converted, tmp_path) -> None:
    _, ours = converted(LOGIT_BIAS)
    said = run(to_neox, ours, tmp_path / "one", "--mp", 1)
    assert said.status == 2 and "a multiple" in said.error and not (tmp_path / "one").exists()
    said = call(to_neox, ours, tmp_path / "two", "--mp", 2)
    assert "the same function" in said.out.splitlines()
    assert "tools that merge by averaging will lose it" in said.err


def test_what_neox_and_deepspeed_look_at_when_they_load(converted, tmp_path) -> None:
    """Read of megatron/checkpointing.py and deepspeed/runtime/engine.py: see writers/neox.py."""
    _, ours = converted("seqres_mp2")
    call(to_neox, ours, tmp_path / "there", "--mp", 2, "--pp", 2)
    folder = tmp_path / "there" / (tmp_path / "there" / "latest").read_text()
    ranks = sorted(folder.glob("mp_rank_*"))
    assert len(ranks) == 4
    state = torch.load(ranks[3], weights_only=True)
    assert state["module"] is None and state["mp_world_size"] == 4 and state["iteration"] == 5
    keys = yaml.safe_load((tmp_path / "there" / "neox_config.yml").read_text())
    asked = {name.replace("-", "_"): value for name, value in keys.items()}
    for name, value in state["args"].items():
        assert value == asked.get(name, value), name
    # no_load_optim would make NeoX train one parameter of all, by its get_optimizer
    assert asked["finetune"] and "no_load_optim" not in asked and "no_load_rng" not in asked
    assert asked["model_parallel_size"] == 2
    rows = asked["make_vocab_size_divisible_by"] * 2
    assert state["args"]["padded_vocab_size"] % rows == 0


def test_a_vocabulary_that_does_not_divide_gets_rows_of_zeros(tmp_path) -> None:
    folder = Synthetic(vocab=65, mp=1).write(tmp_path / "run")
    call(from_neox, folder, tmp_path / "ours", "--no-verify")
    said = call(to_neox, tmp_path / "ours", tmp_path / "there", "--mp", 2)
    assert "the same function" in said.out.splitlines()
    assert "1 rows of zeros were added to the vocabulary's 65" in said.err
    files = open_neox(tmp_path / "there")
    assert files.vocab_size == 66
    last = files.ranks(0)[1]["word_embeddings.weight"][-1]
    assert not last.any()


@pytest.mark.parametrize("keys", [{"pos-emb": "alibi"}, {"gpt-j-tied": True}, {}])
def test_the_certificate_lists_every_tensor_that_is_written(tmp_path, keys) -> None:
    keys = {"pos-emb": "rotary"} | keys
    ours = tmp_path / "ours"
    if keys["pos-emb"] == "alibi":
        folder = alibi(tmp_path / "run")
    else:
        folder = Synthetic(keys=keys).write(tmp_path / "run")
    call(from_neox, folder, ours, "--no-verify")
    call(to_neox, ours, tmp_path / "there", "--mp", 2, "--no-verify")
    record = json.loads((tmp_path / "there" / "certificate.json").read_text())
    listed = {(t["module"], t["name"]): t["elements"] for t in record["tensors"]}
    files = open_neox(tmp_path / "there")
    written = {
        (index, name): sum(rank[name].size for rank in ranks)
        for index, ranks in files.shards.items()
        for name in ranks[0]
    }
    assert listed == written


def alibi(run: Path) -> Path:
    folder = Synthetic(keys={"pos-emb": "alibi"}).write(run)
    slopes = torch.tensor([0.25, 0.0625, 0.015625, 0.00390625])
    for path in folder.glob("layer_0[23]-*"):
        tensors = torch.load(path, weights_only=True)
        rank = int(path.name.split("model_")[1][:2])
        tensors["attention.alibi_embed.slopes"] = slopes[2 * rank : 2 * rank + 2].clone()
        torch.save(tensors, path)
    return folder


@settings(max_examples=200, deadline=None)
@given(
    bias=st.lists(st.floats(-65504, 65504, width=16), min_size=1, max_size=40),
    ranks=st.integers(1, 16),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_the_shares_of_a_bias_sum_to_it(bias: list[float], ranks: int, dtype: str) -> None:
    whole = np.asarray(bias, dtype)
    total = np.sum([share.astype(np.float64) for share in divided(whole, ranks)], axis=0)
    if dtype == "float32" or (ranks & (ranks - 1) == 0 and (abs(whole) > 1e-3).all()):
        np.testing.assert_array_equal(total.astype(dtype), whole)
    if dtype == "float32" and ranks & (ranks - 1) == 0:
        np.testing.assert_array_equal(total, whole)  # exact, not rounded


def assert_same_bits(a, b) -> None:
    assert a.shapes == b.shapes
    for name in a.shapes:
        assert a.dtype(name) == b.dtype(name)
        assert a.leaf(name).tobytes() == b.leaf(name).tobytes(), name


LLAMA_MLP = LLAMA | {"mlp_type": "llama", "gpt_j_residual": False}


@pytest.mark.parametrize(
    "keys",
    [
        {"activation": "swiglu", "intermediate_size": None},
        {"activation": "reglu", "use_bias_in_mlp": True},
        {"activation": "silu", "intermediate_size": 36},
        {"activation": "swish", "intermediate_size": 36, "use_bias_in_mlp": True},
        {"activation": "relu", "intermediate_size": None},
    ],
)
def test_a_run_with_the_mlp_type_of_2023(tmp_path: Path, keys: dict[str, Any]) -> None:
    """It says nothing where the activation is gated; else the YAML has HEAD's gated activation."""
    write_run(tmp_path / "run", LLAMA_MLP | keys)
    said = call(to_neox, tmp_path / "run", tmp_path / "there", "--mp", 2)
    assert "the same function" in said.out.splitlines()
    assert "mlp-type" not in (tmp_path / "there" / "neox_config.yml").read_text()


def test_a_gate_that_neox_has_no_name_for(tmp_path: Path) -> None:
    write_run(tmp_path / "run", LLAMA_MLP | {"activation": "mish"})
    said = run(to_neox, tmp_path / "run", tmp_path / "there", "--mp", 1)
    assert said.status == 2 and "gated MLP's activation is mish" in said.error
