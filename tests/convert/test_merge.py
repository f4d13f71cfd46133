"""What k ranks compute is what one model computes, for architectures and drifts of every kind."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert import from_neox
from convert.checkpoint import UserProgram
from convert.fate import Fate, check_whole
from convert.neox.checkpoint import HISTORIC, Merged, NeoxModel
from convert.neox.consistency import check_consistency
from convert.neox.join import merge_part
from convert.neox.merge import make_plan
from convert.neox.plan import MergeChoices
from convert.oracle import run
from convert.proof.compare import prove
from convert.proof.follow import PROBE
from convert.proof.result import Proof
from convert.readers.neox import NeoxCheckpoint
from convert.readers.neox_open import open_neox
from convert.rules import neox
from jaxneox.errors import UserError
from jaxneox.model.positions import alibi_slopes
from tests.convert.commands import call
from tests.convert.synthetic import Synthetic

EXACT = 1e-12  # float64 sums of at most some hundred terms, in another order
ROUNDED = 1e-6  # folded numbers are stored in float32: eight roundings of 1.2e-7

NORMS = ("input_layernorm", "post_attention_layernorm", "norm.")
BIASES = ("attention.dense.bias", "mlp.linear2.bias")


EXACTLY = MergeChoices()


def merged(
    spec: Synthetic, choices: MergeChoices = EXACTLY, length: int = 8, **options: Any
) -> tuple[NeoxCheckpoint, Any, Proof]:
    """The checkpoint, its plan, and its ranks held against the merged model."""
    with tempfile.TemporaryDirectory() as folder:
        source = open_neox(spec.write(Path(folder) / "run"))
        check_consistency(source)
        plan = make_plan(source, choices)
        tokens = np.random.default_rng(1).integers(0, source.vocab_size, (2, length))
        ranks, model = NeoxModel(source, plan), Merged(source, plan)
        folded = bool(plan.folds)
        return source, plan, prove(ranks, model, tokens, 1.0, folded=folded, **options)


def worst(proof: Proof) -> float:
    assert not proof.different
    return max(max(layer.random, layer.stream) for layer in proof.layers)


@pytest.mark.parametrize("run", [True, False])
@pytest.mark.parametrize("length", [PROBE, PROBE + 6])
def test_the_text_may_be_longer_than_the_random_states(length: int, run: bool) -> None:
    """Then a layer is applied to both apart; and rounding is measured if a program is run."""
    asked: list[np.ndarray] = []

    def logits(tokens_BT: np.ndarray) -> np.ndarray:
        asked.append(tokens_BT)
        return np.zeros((*tokens_BT.shape, 64), np.float32)

    program = UserProgram(logits, 0) if run else "not run"
    _, _, proof = merged(Synthetic(), length=length, program=program)
    assert worst(proof) <= EXACT and len(asked) == run
    failed = [failure for failure in proof.failures if "the running program" in failure]
    assert len(failed) == run  # by 1, and the limit is a float32's roundings


def test_the_older_merges_are_followed_only_if_asked_for() -> None:
    _, _, proof = merged(Synthetic(drift=NORMS))
    assert [one.title for one in proof.logits] == ["the converted model"]
    assert proof.not_computed == [*HISTORIC]
    _, _, proof = merged(Synthetic(drift=NORMS), older_merges=True)
    ours, *older = proof.logits
    assert [one.title for one in older] == [*HISTORIC] and not proof.not_computed
    assert ours.relative <= ROUNDED and all(one.relative > 1e-4 for one in older)


architectures = st.fixed_dictionaries(
    {
        "gpt-j-residual": st.booleans(),
        "gpt-j-tied": st.booleans(),
        "norm": st.sampled_from(["layernorm", "rmsnorm"]),
        "no-weight-tying": st.booleans(),
        "pos-emb": st.sampled_from(["rotary", "learned", "sinusoidal", "none"]),
        "activation": st.sampled_from(["gelu", "swiglu"]),
        "num-kv-heads": st.sampled_from([2, 4]),
        "use-bias-in-attn-linear": st.booleans(),
        "use-bias-in-mlp": st.booleans(),
        "bias-gelu-fusion": st.booleans(),
        "intermediate-size": st.just(96),
    }
)


def computable(keys: dict[str, Any]) -> bool:
    """NeoX raises a TypeError for a plain MLP without biases."""
    return bool(keys["use-bias-in-mlp"] or keys["activation"] == "swiglu")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(architectures.filter(computable), st.sampled_from([1, 2]), st.sampled_from([0, 1, 2]))
def test_ranks_without_drift_merge_exactly(keys: dict[str, Any], mp: int, pp: int) -> None:
    _, plan, proof = merged(Synthetic(keys=keys, mp=mp, pp=pp))
    assert plan.exact and not plan.folds and not plan.rounding
    assert worst(proof) <= EXACT


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(architectures.filter(computable), st.sampled_from([2, 4]))
def test_drifted_norms_are_kept_exactly(keys: dict[str, Any], mp: int) -> None:
    keys = keys | {"num-kv-heads": 4}
    _, plan, proof = merged(Synthetic(keys=keys, mp=mp, drift=NORMS))
    assert plan.exact and plan.folds
    assert worst(proof) <= ROUNDED
    assert not plan.model.tied_embedding


def test_drifted_biases_of_a_parallel_residual_are_summed_exactly() -> None:
    _, plan, proof = merged(Synthetic(drift=BIASES))
    assert plan.exact and worst(proof) <= ROUNDED


def test_drifted_biases_of_a_sequential_residual_have_no_merge_and_a_cost() -> None:
    _, plan, proof = merged(Synthetic(keys={"gpt-j-residual": False}, drift=BIASES))
    assert not plan.exact
    assert "no exact merge was made of attention.dense.bias" in plan.warnings[-1]
    assert "there is none" in plan.warnings[-1] and not plan.mergeable
    assert 1e-5 < proof.logits[0].relative < 0.1  # drift of 5 % in small biases, measured


def test_drifted_positions_have_no_merge() -> None:
    spec = Synthetic(keys={"pos-emb": "learned"}, drift=("position_embeddings",))
    _, plan, proof = merged(spec)
    assert not plan.exact and proof.logits[0].relative > 1e-5


@pytest.mark.parametrize("biased", [True, False])
def test_folding_grows_the_biases_that_it_needs(biased: bool) -> None:
    keys = {"activation": "swiglu", "intermediate-size": 96, "gpt-j-residual": False}
    keys |= {"use-bias-in-attn-linear": biased, "use-bias-in-mlp": biased}
    source, plan, proof = merged(Synthetic(keys=keys, drift=NORMS))
    assert worst(proof) <= ROUNDED
    assert plan.model.attention.bias and plan.model.mlp.bias and plan.model.logit_bias
    assert plan.keys["use_bias_in_mlp"] is True
    assert source.model.attention.bias is biased


def test_a_norm_whose_copies_cancel_or_vanish_is_still_folded(tmp_path: Path) -> None:
    """The mean of w and -w is no reference: the ratio to it would be infinite."""
    folder = Synthetic().write(tmp_path / "run")
    for rank, sign in ((0, 1.0), (1, -1.0)):
        path = folder / f"layer_02-model_{rank:02d}-model_states.pt"
        tensors = torch.load(path, weights_only=True)
        tensors["input_layernorm.weight"][:3] = torch.tensor([sign, 0.0, 1e-30 * sign])
        torch.save(tensors, path)
    source = open_neox(folder)
    plan = make_plan(source, MergeChoices())
    sides = NeoxModel(source, plan), Merged(source, plan)
    assert worst(prove(*sides, np.arange(16).reshape(2, 8), 1.0, folded=True)) <= ROUNDED


def test_half_precision_keeps_its_type_but_for_what_it_cannot_hold() -> None:
    plain = merged(Synthetic(dtype=torch.float16, keys={"precision": "fp16"}))[1]
    assert {dtype.name for dtype in plain.dtypes.values()} == {"float16"}
    folded = merged(Synthetic(dtype=torch.float16, keys={"precision": "fp16"}, drift=NORMS))
    plan, proof = folded[1:]
    assert plan.dtypes["layers.attention.qkv"] == np.float32
    assert plan.dtypes["layers.attention.out"] == np.float16
    assert worst(proof) <= ROUNDED


class WithoutNorms(Synthetic):
    def _norm(self, name: str) -> dict[str, tuple[int, ...]]:
        return {}


@pytest.mark.parametrize("pp", [0, 1])
def test_norms_without_parameters_leave_a_module_empty(pp: int) -> None:
    spec = WithoutNorms(keys={"norm": "non_parametric_layernorm"}, pp=pp)
    _, plan, proof = merged(spec)
    assert plan.exact and worst(proof) <= EXACT


def test_slopes_and_angles_that_half_precision_rounded_are_told(tmp_path: Path) -> None:
    """Here they are right; the source as it was is shown beside, with what that changes."""
    keys = {"pos-emb": "alibi", "precision": "fp16"}
    spec = Synthetic(keys=keys, dtype=torch.float16, heads=16, hidden=48)
    folder = spec.write(tmp_path / "alibi")
    slopes = torch.tensor(alibi_slopes(16)).half()
    for path in folder.glob("layer_0[23]-*"):
        tensors = torch.load(path, weights_only=True)
        rank = int(path.name.split("model_")[1][:2])
        tensors["attention.alibi_embed.slopes"] = slopes[8 * rank : 8 * rank + 8].clone()
        torch.save(tensors, path)
    said = call(from_neox, folder, tmp_path / "dst")
    assert "the same function" in said.out.splitlines()
    assert "NeoX rounded alibi's slopes to float16" in said.err
    proof = json.loads((tmp_path / "dst" / "certificate.json").read_text())["proof"]
    assert proof["ends"][-1]["title"] == "the source, its alibi slopes in float16"
    assert 1e-7 < proof["ends"][-1]["relative"] < 1e-2


def test_the_average_of_copies_is_the_plain_mean() -> None:
    source, plan, _ = merged(Synthetic(drift=NORMS), MergeChoices("mean", "once"))
    copies = [rank["input_layernorm.weight"].astype(np.float64) for rank in source.ranks(2)]
    np.testing.assert_array_equal(plan.values["layers.norm1.scale", 2], np.mean(copies, axis=0))


def test_sequence_parallel_copies_are_of_positions_and_cannot_be_folded() -> None:
    _, plan, _ = merged(Synthetic(keys={"sequence-parallel": True}, drift=NORMS))
    assert not plan.exact and not plan.folds
    assert any("own positions" in decision.why for decision in plan.decisions)


def test_a_layernorm_over_each_ranks_heads_is_refused(tmp_path: Path) -> None:
    spec = Synthetic(keys={"use-qk-layernorm": True}, mp=2)
    folder = spec.write(tmp_path / "run")
    for path in folder.glob("layer_0[23]-*"):
        tensors = torch.load(path, weights_only=True)
        tensors |= {f"attention.qk_layernorm.{x}": torch.ones(2, 8) for x in ("weight", "bias")}
        torch.save(tensors, path)
    source = open_neox(folder)
    check_consistency(source)
    with pytest.raises(UserError, match="statistics over the heads of each of 2 ranks"):
        make_plan(source, MergeChoices())


def test_relative_positions_of_stages_that_went_apart_are_refused(tmp_path: Path) -> None:
    folder = Synthetic(keys={"pos-emb": "rpe"}, mp=2).write(tmp_path / "run")
    for path in folder.glob("layer_0[23]-*"):
        tensors = torch.load(path, weights_only=True)
        tensors["attention.rpe.weight"] = 0.1 * torch.ones(32, 2)
        torch.save(tensors, path)
    source = open_neox(folder)
    check_consistency(source)
    plan = make_plan(source, MergeChoices())
    tokens = np.arange(16).reshape(2, 8)
    logits = [run(kind(source, plan).forward, tokens) for kind in (NeoxModel, Merged)]
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-12)
    tensors["attention.rpe.weight"][0, 0] = 1.0
    torch.save(tensors, path)
    with pytest.raises(UserError, match="the pipeline's stages trained tables of their own"):
        make_plan(open_neox(folder), MergeChoices())


def test_an_element_that_is_lost_or_used_twice_is_an_error() -> None:
    """By a rule that forgets, or by one that moves the wrong numbers."""
    common = ("name", 2, 0, 1, (4,), "float32")
    whole = Fate(*common, "leaf", "copied", elements=4, used=4, same_bits=True)
    check_whole([whole, Fate(*common, None, "not used", elements=4, used=0)])
    for lost in (replace(whole, used=3), replace(whole, same_bits=False)):
        with pytest.raises(RuntimeError, match="lost or used twice, in name"):
            check_whole([whole, lost])


def test_a_rule_that_puts_numbers_twice_does_not_convert(tmp_path: Path, monkeypatch) -> None:
    source = open_neox(Synthetic().write(tmp_path / "run"))
    plan = make_plan(source, MergeChoices())
    plain = neox.block(plan.model, "dense")
    twice = [(neox.FIRST_BLOCK, plain + plain[-2:-1])]
    monkeypatch.setattr("convert.neox.join.modules_of", lambda part, model, llama_mlp: twice)
    with pytest.raises(RuntimeError, match="not every element was put once"):
        merge_part(source, plan, 0)
