"""Mixtures of experts by NeoX's keys, and by ours."""

import pytest

from jaxneox.config.schema import ExpertsConfig
from tests.config.cases import error, run

MOE = {"num_layers": 4, "attention_config": [[["global"], 4]], "moe_num_experts": 4}


def experts(**keys: object) -> ExpertsConfig:
    found = run(**MOE | keys).model.experts
    assert found is not None
    return found


def test_every_so_many_layers_has_experts() -> None:
    assert run().model.experts is None and run().model.pattern == ("dense",)
    assert run(**MOE).model.pattern == ("experts",)
    assert run(**MOE, moe_expert_interval=2).model.pattern == ("experts", "dense")
    three = run(**MOE, moe_expert_interval=3).model
    assert three.pattern == three.kinds == ("experts", "dense", "dense", "experts")
    beside = [[["mamba", "global"], 2]]
    assert run(**MOE | {"attention_config": beside}).model.pattern == ("mamba", "experts")


def test_widths_are_neoxs() -> None:
    assert experts(hidden_size=32).size == 256  # 4 x 32 rounded up
    assert experts(hidden_size=32, intermediate_size=96, activation="swiglu").size == 96
    assert experts(intermediate_size=96, moe_expert_size=48).size == 48


@pytest.mark.parametrize(
    ("keys", "gated"),
    [
        ({"activation": "gelu"}, False),
        ({"activation": "swiglu"}, True),
        ({"activation": "swiglu", "neox_compat": True}, False),
        ({"activation": "swiglu", "moe_gated_experts": False}, False),
        ({"activation": "silu", "moe_gated_experts": True}, True),
    ],
)
def test_gates(keys: dict, gated: bool) -> None:
    found = experts(**keys, train_micro_batch_size_per_gpu=2)
    assert found.gated is gated
    assert found.activation == ("gelu" if keys["activation"] == "gelu" else "silu")


def test_what_neox_computes_with_neox_compat() -> None:
    keys = {"gpt_j_residual": True, "model_parallel_size": 2, "train_micro_batch_size_per_gpu": 3}
    ours, theirs = experts(**keys), experts(**keys, neox_compat=True)
    assert (ours.sinkhorn_rows, ours.exact, ours.residual_quirk) == (1, True, 0)
    assert (theirs.sinkhorn_rows, theirs.exact, theirs.residual_quirk) == (3, False, 2)
    assert experts(**keys, neox_compat=True, moe_router_type="topk").sinkhorn_rows == 1
    assert experts(**keys, moe_sinkhorn_rows=2).sinkhorn_rows == 2


def test_contradictions_are_one_line() -> None:
    assert "moe_top_k 5 is more than moe_num_experts 4" in error(**MOE, moe_top_k=5)
    assert "set moe_router_type to topk" in error(**MOE, moe_jitter_eps=0.1)
    assert "moe_attention_dropped needs gpt_j_res" in error(**MOE, moe_attention_dropped=2)
    assert "use moe_aux_loss_coeff" in error(**MOE, moe_loss_coeff=0.2)
    assert "--mesh ep=N" in error(**MOE, moe_expert_parallel_size=4)


def test_keys_without_effect_are_noted() -> None:
    (note,) = run(moe_top_k=2).notes
    assert note == "moe_top_k: changes nothing in a model without layers of experts"
