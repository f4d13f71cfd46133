"""`rope_scaling`: each type reads its own fields and no other; what is not given follows."""

import math
from typing import Any

import pytest

from jaxneox.config.schema import RopeScaling
from tests.config.cases import error, run

ROTARY = {"pos_emb": "rotary", "max_position_embeddings": 64}
ORIGINAL = {"original_max_position_embeddings": 16}
YARN = {"type": "yarn", "factor": 2.0} | ORIGINAL
LLAMA3 = {"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4} | ORIGINAL


def scaling(**block: Any) -> RopeScaling:
    return run(**ROTARY, rope_scaling=block).model.positions.scaling


def test_each_type_with_the_least_that_it_needs() -> None:
    assert scaling() == scaling(type="default") == RopeScaling()
    assert scaling(type="linear", factor=2) == RopeScaling("linear", 2.0)
    assert scaling(rope_type="dynamic", factor=4.0, **ORIGINAL) == RopeScaling("dynamic", 4.0, 16)
    assert scaling(type="llama3", **LLAMA3) == RopeScaling("llama3", 8.0, 16)
    yarn = scaling(type="yarn", factor=4, **ORIGINAL, truncate=False, beta_fast=16)
    assert yarn == RopeScaling("yarn", 4.0, 16, 0.1 * math.log(4) + 1, 16.0, truncate=False)


def test_what_yarn_multiplies_by() -> None:
    yarn = YARN | {"factor": 4.0}
    assert scaling(**yarn, attention_factor=0.5).attention_factor == 0.5
    both = scaling(**yarn, mscale=0.7, mscale_all_dim=2)
    ratio = (0.07 * math.log(4) + 1) / (0.2 * math.log(4) + 1)
    assert both.attention_factor == pytest.approx(ratio, rel=1e-15)  # the same steps in float64
    alone = scaling(**yarn, mscale=0.7)
    assert alone.attention_factor == scaling(**yarn).attention_factor


@pytest.mark.parametrize(
    ("given", "noted"),
    [
        ({"mscale": 0.7, "mscale_all_dim": 2}, []),
        ({"mscale": 0.7}, ["mscale"]),
        ({"mscale_all_dim": 2.0}, ["mscale_all_dim"]),
        (
            {"mscale": 0.7, "mscale_all_dim": 2, "attention_factor": 1.5},
            ["mscale", "mscale_all_dim"],
        ),
    ],
)
def test_a_magnitude_that_does_not_count_is_noted(
    given: dict[str, float], noted: list[str]
) -> None:
    notes = run(**ROTARY, rope_scaling=YARN | given).notes
    assert [note.split(" changes nothing")[0] for note in notes] == [
        f"rope_scaling.{name}" for name in noted
    ]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"type": "longrope", "factor": 2.0}, "rope_scaling.type: found 'longrope'"),
        ({"type": "linear"}, "type linear needs factor"),
        ({"type": "dynamic", "factor": 8.0}, "type dynamic needs original_max_position_embeddings"),
        (YARN | {"type": "llama3"}, "type llama3 needs low_freq_factor"),
        ({"type": "linear", "factor": 0.5}, "rope_scaling.factor: found 0.5"),
        ({"factor": 2.0}, "rope_scaling.factor: type default does not read it"),
        ({"type": "linear", "factor": 2, "beta_fast": 3}, "beta_fast: type linear does not"),
        ({"type": "yarn", "rope_type": "linear", "factor": 2}, "they are one setting"),
        (YARN | {"beta_slow": 40}, "beta_slow 40 and beta_fast 32"),
        ({"type": "llama3", **LLAMA3, "high_freq_factor": 1}, "the first above 0 and below"),
        ({"type": "linear", "factr": 2.0}, "rope_scaling.factr (did you mean rope_scaling.factor"),
    ],
)
def test_one_line_for_what_does_not_go_together(block: dict[str, Any], words: str) -> None:
    assert words in error(**ROTARY, rope_scaling=block)


def test_what_only_some_models_can_have() -> None:
    linear = {"type": "linear", "factor": 2.0}
    assert "needs pos_emb: rotary, found learned" in error(rope_scaling=linear)
    dynamic = YARN | {"type": "dynamic"}
    assert "type dynamic changes no" in error(**ROTARY, head_dim=2, rope_scaling=dynamic)
    assert "above 1, found 1" in error(**ROTARY, rotary_emb_base=1, rope_scaling=YARN)


def test_heads_biases_and_norms_of_queries_and_keys() -> None:
    attention = run(head_dim=6, num_attention_heads=5).model.attention
    assert (attention.num_heads, attention.head_dim) == (5, 6)
    assert run(attention_output_bias=False).model.attention.biased_output is False
    unbiased = run(use_bias_in_attn_linear=False, attention_output_bias=False)
    assert unbiased.model == run(use_bias_in_attn_linear=False).model
    assert run(qk_norm_per_head=True, norm="rmsnorm").model.attention.qk_norm_per_head
    assert "needs norm: rmsnorm, found layernorm" in error(qk_norm_per_head=True)
    assert "keep one of them" in error(qk_norm_per_head=True, use_qk_layernorm=True)
