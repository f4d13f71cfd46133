"""Rules are bijections: what `put` takes from tensors `get` gives back, on any number of ranks."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.rules import hf_gpt2, hf_llama, hf_neox, neox
from convert.rules.rule import STRIP, Role, Rule, copy, sizes_of, with_fewer_axes
from jaxneox.config.schema import (
    AttentionConfig,
    MlpConfig,
    ModelConfig,
    NormConfig,
    PositionConfig,
)
from tests.reference.parameters import parameter_shapes

Rules = Callable[[ModelConfig], tuple[Rule, ...]]
Fit = Callable[[ModelConfig], ModelConfig]

STACKED = "layers."
sizes = st.integers(1, 3)
flags = st.booleans()
NORMS = ("layernorm", "rmsnorm", "scalenorm", "non_parametric_layernorm")
POSITIONS = ("learned", "rotary", "rpe", "alibi")


@st.composite
def models(draw: st.DrawFn, ranks: int = 1, groups: st.SearchStrategy[int] = sizes) -> ModelConfig:
    """Of any architecture, with sizes that `ranks` divide."""
    kv, group, head = ranks * draw(sizes), draw(groups), 2 * draw(sizes)
    kind, parallel = draw(st.sampled_from(NORMS)), draw(flags)
    qk_norm = kind in NORMS[:2] and draw(flags)
    return ModelConfig(
        num_layers=1,
        hidden_size=kv * group * head,
        vocab_size=ranks * draw(sizes),
        seq_length=4,
        attention=AttentionConfig(kv * group, kv, head, bias=draw(flags), qk_norm=qk_norm),
        mlp=MlpConfig(ranks * draw(sizes), gated=draw(flags), bias=draw(flags)),
        norm=NormConfig(kind, bias=kind == "layernorm"),
        positions=PositionConfig(draw(st.sampled_from(POSITIONS)), 4),
        parallel_residual=parallel,
        shared_norm=parallel and draw(flags),
        tied_embedding=draw(flags),
        logit_bias=draw(flags),
    )


def check(rules: tuple[Rule, ...], model: ModelConfig, ranks: int) -> None:
    """Every element of ours comes from one of theirs, and every one of theirs comes back."""
    expected = {
        name: shape[name.startswith(STACKED) :] for name, shape in parameter_shapes(model).items()
    }
    leaves = {name: np.full(shape, -1, np.int32) for name, shape in expected.items()}
    of_rank = sizes_of(model, ranks)
    for rule in rules:
        for part in rule.parts:
            assert part.whole(sizes_of(model)) == expected[part.leaf]
    start, theirs = 0, {}
    for rule in rules:
        shape = rule.shape(of_rank)
        for rank in range(ranks if rule.role is Role.SPLIT else 1):
            count = int(np.prod(shape))
            theirs[rule, rank] = np.arange(start, start + count, dtype=np.int32).reshape(shape)
            start += count
            rule.put(theirs[rule, rank], leaves, of_rank, rank)
    numbers = np.concatenate([leaf.ravel() for leaf in leaves.values()])
    assert sorted(numbers) == list(range(start))
    for (rule, rank), tensor in theirs.items():
        assert np.array_equal(rule.get(leaves, of_rank, rank), tensor)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), ranks=st.sampled_from([1, 2, 4]))
def test_neox(data: st.DataObject, ranks: int) -> None:
    model = data.draw(models(ranks))
    modules = [rule for rules in neox.modules(model).values() for rule in rules]
    check((*modules, *neox.shared(model)), model, ranks)


def of_neox(model: ModelConfig) -> ModelConfig:
    return replace(
        model,
        mlp=replace(model.mlp, gated=False, bias=True),
        norm=NormConfig("layernorm"),
        positions=PositionConfig("rotary"),
    )


def of_llama(model: ModelConfig) -> ModelConfig:
    return replace(
        model,
        mlp=replace(model.mlp, gated=True),
        norm=NormConfig("rmsnorm", bias=False),
        positions=PositionConfig("rotary"),
    )


def of_qwen(model: ModelConfig) -> ModelConfig:
    """What its kin add: norms of each head, no output bias, heads that are wider together."""
    attention = replace(
        model.attention, qk_norm=False, qk_norm_per_head=True, output_bias=False, head_dim=10
    )
    return replace(of_llama(model), attention=attention)


def of_gpt2(model: ModelConfig) -> ModelConfig:
    return replace(
        of_neox(model),
        attention=replace(model.attention, bias=True),
        positions=PositionConfig("learned", 5),
    )


HF: dict[str, tuple[Rules, Fit, st.SearchStrategy[int]]] = {
    "neox": (hf_neox.rules, of_neox, st.just(1)),
    "llama": (hf_llama.rules, of_llama, sizes),
    "qwen": (hf_llama.rules, of_qwen, sizes),
    "gpt2": (hf_gpt2.rules, of_gpt2, st.just(1)),
}


@pytest.mark.parametrize("family", HF)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_hugging_face(family: str, data: st.DataObject) -> None:
    rules, fit, groups = HF[family]
    model = fit(data.draw(models(1, groups)))
    model = replace(
        model,
        shared_norm=False,
        logit_bias=False,
        attention=replace(model.attention, qk_norm=False),
    )
    check(rules(model), model, ranks=1)


LAYOUTS = {
    "(K R H) D -> D K R H": {"K": 4, "R": 3},
    "(H K) D -> D K H": {"K": 5},
    "A B -> B A": {},
    "A B -> A B": {},
    "(K H) -> K H": {"K": 3},
}


@pytest.mark.parametrize("pattern", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_layout_is_copied_into_a_part_of_a_larger_array(pattern: str, dtype) -> None:
    """Wider than a strip, and with axes that are one in both arrays and axes that are not."""
    shape = (60,) if "D" not in pattern and "A" not in pattern else (60, 2 * STRIP + 3)
    source = (1 + np.arange(np.prod(shape)) % 97).reshape(shape).astype(dtype)
    theirs = rearrange(source, pattern, **LAYOUTS[pattern])
    whole = np.zeros((theirs.shape[0] + 2, *(2 * n for n in theirs.shape[1:])), dtype)
    part = whole[1:-1][(slice(None), *(slice(n, 2 * n) for n in theirs.shape[1:]))]
    copy(part, theirs)
    assert np.array_equal(part, theirs) and np.count_nonzero(whole) == part.size
    one, other = with_fewer_axes(part, theirs)
    assert one.shape == other.shape and np.array_equal(one, other)
