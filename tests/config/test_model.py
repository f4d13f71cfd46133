"""The sizes that NeoX derives for a model."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxneox.config import Settings
from jaxneox.config.architecture import padded_vocab
from jaxneox.config.schema import TokenizerConfig
from jaxneox.config.swapped import exchanged
from tests.config.cases import SMALLEST, error, run


def neox_mlp_input(ffn: int, gated: bool, multiple: int) -> int:
    """The width that NeoX gives linear2, computed step by step as its ParallelMLP does."""
    width = int(ffn * 2 / 3) // 2 if gated else ffn
    return int(multiple * ((width + multiple - 1) // multiple))


@given(st.integers(3, 100_000), st.sampled_from(["gelu", "swiglu"]), st.integers(1, 300))
def test_mlp_width_is_that_of_neox(ffn: int, activation: str, multiple: int) -> None:
    mlp = run(intermediate_size=ffn, activation=activation, mlp_multiple_of=multiple).model.mlp
    assert mlp.size == neox_mlp_input(ffn, activation == "swiglu", multiple)


def test_mlp_width_by_hand() -> None:
    assert run().model.mlp.size == 256
    assert run(expansion_factor=3.5).model.mlp.size == 224
    assert run(intermediate_size=200, activation="geglu", mlp_multiple_of=16).model.mlp.size == 80
    assert run(
        intermediate_size=32768, activation="swiglu", mlp_multiple_of=256
    ).model.mlp.size == (11008)
    assert "keep one" in error(intermediate_size=1, expansion_factor=1)


@pytest.mark.parametrize(
    ("name", "kind", "gated"),
    [
        ("gelu", "gelu", False),
        ("relu", "relu", False),
        ("softsign", "softsign", False),
        ("mish", "mish", False),
        ("silu", "silu", False),
        ("swish", "silu", False),
        ("GeGLU", "gelu", True),
        ("reglu", "relu", True),
        ("swiglu", "silu", True),
        ("bilinear", "identity", True),
        ("glu", "sigmoid", True),
    ],
)
def test_activations(name: str, kind: str, gated: bool) -> None:
    mlp = run(activation=name).model.mlp
    assert (mlp.activation, mlp.gated) == (kind, gated)


def test_bias_gelu_fusion_is_the_tanh_form_of_gelu_alone() -> None:
    assert run(bias_gelu_fusion=True).model.mlp.activation == "gelu_tanh"
    assert run(bias_gelu_fusion=True, activation="geglu").model.mlp.activation == "gelu"


@pytest.mark.parametrize(
    ("norm", "kind", "epsilon"),
    [
        ("layernorm", "layernorm", 1e-3),
        ("te_layernorm", "layernorm", 1e-3),
        ("non_parametric_layernorm", "non_parametric_layernorm", 1e-3),
        ("rmsnorm", "rmsnorm", 1e-4),
        ("te_rmsnorm", "rmsnorm", 1e-4),
        ("scalenorm", "scalenorm", 1e-5),
    ],
)
def test_norms_have_their_own_epsilon(norm: str, kind: str, epsilon: float) -> None:
    keys: dict[str, Any] = {
        "layernorm_epsilon": 1e-3,
        "rms_norm_epsilon": 1e-4,
        "scalenorm_epsilon": 1e-5,
    }
    found = run(norm=norm, **keys).model.norm
    assert (found.kind, found.epsilon, found.bias) == (kind, epsilon, kind == "layernorm")


def test_biases_are_what_the_yaml_says_unless_neox_is_to_be_reproduced() -> None:
    keys: dict[str, Any] = {
        f"use_bias_in_{part}": False for part in ("norms", "attn_linear", "mlp")
    }
    model = run(**keys).model
    assert not (model.norm.bias or model.attention.bias or model.mlp.bias)
    model = run(neox_compat=True, **keys).model
    assert model.norm.bias and not (model.attention.bias or model.mlp.bias)


def test_attention() -> None:
    attention = run(num_kv_heads=2, sliding_window_width=5, use_qk_layernorm=True).model.attention
    assert (attention.kv_heads, attention.group, attention.head_dim) == (2, 2, 16)
    assert (attention.window, attention.qk_norm, attention.softmax_fp32) == (5, True, False)
    assert run().model.attention.kv_heads == 4
    assert run(apply_query_key_layer_scaling=True).model.attention.softmax_fp32
    assert run(attention_softmax_in_fp32=True).model.attention.softmax_fp32
    assert "num-kv-heads 3" in error(num_kv_heads=3)
    assert error(num_attention_heads=5) == (
        "num_attention_heads 5 does not divide hidden_size 64 (num_layers 2 does: are they "
        "swapped?): the nearest that does is 4"
    )


@pytest.mark.parametrize(
    "config",
    [
        None,
        [[["global"], 2]],
        [[["flash", "global"], "all"]],
        ["flash", "flash"],
        [[["flash"], "all"]],
    ],
)
def test_dense_attention_is_one_function(config: list[object] | None) -> None:
    assert run(attention_config=config).model == run().model


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([[["rwkv"], 2]], "attention_config: rwkv is not supported: NeoX's RWKV runs"),
        ([[["global", "local"], "all"]], "attention_config: local is not supported: sparse"),
        ([[["global"], 4]], "describes 4 layers but num_layers is 2"),
        ([[["global"], 10**12]], "describes 1000000000000 layers but num_layers is 2"),
        ([[["global"], -1]], "expected [[types], times]"),
        ([[["global", "flash", "flash"], "all"]], "does not divide 2 layers"),
        ([["global", 2]], "expected [[types], times]"),
        ([[["globl"], 2]], "unknown type 'globl'"),
    ],
)
def test_other_attention_is_refused(config: list[object], message: str) -> None:
    assert message in error(attention_config=config)


def test_positions() -> None:
    rotary = run(pos_emb="rotary", rotary_pct=0.25, rotary_emb_base=500).model.positions
    assert (rotary.kind, rotary.rotary_fraction, rotary.rotary_base) == ("rotary", 0.25, 500.0)
    assert run(max_position_embeddings=64).model.positions.max_positions == 64
    assert "turns 3 dimensions" in error(pos_emb="rotary", rotary_pct=0.2)
    assert "for 2 set rotary_pct to 0.125" in error(pos_emb="rotary", rotary_pct=0.05)
    few = "max_position_embeddings 16 is less than seq_length 32: "
    assert error(max_position_embeddings=16).startswith(few + "raise it to 32")
    rotary = run(max_position_embeddings=16, pos_emb="rotary")
    assert rotary.notes == (few + "no learned positions depend on it, 32 is taken",)
    assert rotary.model.positions.max_positions == 32


def test_residuals_and_tying() -> None:
    model = run(gpt_j_residual=True, gpt_j_tied=True, no_weight_tying=True).model
    assert model.parallel_residual and model.shared_norm and not model.tied_embedding
    assert run().model.tied_embedding
    config = run(gpt_j_tied=True)
    assert not config.model.shared_norm and "gpt_j_tied" in config.notes[0]


def test_what_imported_checkpoints_need() -> None:
    assert not run(gpt_j_residual=True).model.logit_bias and run(logit_bias=True).model.logit_bias
    assert not run(gpt_j_residual=True).model.attention_dropped
    assert run(gpt_j_residual=True, attention_dropped=True).model.attention_dropped
    assert error(attention_dropped=True).startswith("attention_dropped needs gpt_j_residual: NeoX")


@given(st.integers(1, 10**6), st.integers(1, 512), st.integers(1, 16))
def test_the_padded_vocabulary_is_the_least_multiple(vocab: int, by: int, parallel: int) -> None:
    padded = padded_vocab(TokenizerConfig(divisible_by=by, model_parallel=parallel), vocab)
    assert padded % (by * parallel) == 0 and vocab <= padded < vocab + by * parallel


def test_a_given_padded_vocabulary_wins() -> None:
    assert run(make_vocab_size_divisible_by=32, model_parallel_size=2).model.vocab_size == 512
    assert run(padded_vocab_size=461, vocab_size=None).model.vocab_size == 461
    assert "the tokenizer has 460 tokens but padded_vocab_size is 459" in error(
        padded_vocab_size=459
    )
    assert "padded_vocab_size is missing" in error(vocab_size=None)


def test_a_model_needs_no_training_keys_and_names_what_it_needs() -> None:
    needed = ("num_layers", "hidden_size", "num_attention_heads", "seq_length")
    keys = {name: SMALLEST[name] for name in (*needed, "max_position_embeddings")}
    assert Settings(keys).model(vocab_size=460) == run().model
    for name in (*needed, "max_position_embeddings", "train_iters"):
        without: dict[str, Any] = {name: None}
        assert error(**without).startswith(f"{name} is missing")


def test_layers_and_heads_are_exchanged_only_where_that_explains_the_tensors() -> None:
    swapped = {"num_layers": 40, "num_attention_heads": 36, "hidden_size": 5120, "seed": 1}
    assert exchanged(swapped, 36) == swapped | {"num_layers": 36, "num_attention_heads": 40}
    assert exchanged(swapped, 40) is None, "the YAML's layers are there"
    assert exchanged(swapped, 12) is None, "neither number is the tensors'"
    assert exchanged(swapped | {"hidden_size": 720}, 36) is None, "36 heads are possible"
    assert exchanged(swapped | {"hidden_size": 5119}, 36) is None, "40 heads are not"
    assert exchanged({"num_layers": 40}, 36) is None


MAMBA = {"attention_config": [[["mamba", "global"], "all"]]}


@pytest.mark.parametrize(
    ("keys", "channels", "groups"),
    [
        ({}, 2, 1),
        ({"expansion_factor": 1.5}, 1.5, 1),
        ({"mamba_groups": 4, "neox_compat": True, "model_parallel_size": 2}, 2, 4),
        ({"neox_compat": True, "model_parallel_size": 2}, 2, 2),
        ({"model_parallel_size": 2}, 2, 1),
    ],
)
def test_mamba_layers(keys: dict[str, object], channels: float, groups: int) -> None:
    model = run(**MAMBA | keys).model
    assert model.pattern == ("mamba", "dense") and model.mamba is not None
    assert model.mamba.channels == channels * model.hidden_size
    assert model.mamba.step_rank == -(-model.hidden_size // 16)
    assert model.mamba.groups == groups


def test_the_width_of_mamba_layers_may_be_given() -> None:
    mamba = run(**MAMBA, intermediate_size=20).model.mamba
    assert mamba is not None and mamba.channels == 20


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mamba_groups": 3}, "mamba_groups 3 does not divide the"),
        ({"expansion_factor": 0.001}, "would be 0 wide: raise expansion_factor"),
    ],
)
def test_mamba_layers_of_impossible_sizes(keys: dict[str, object], message: str) -> None:
    assert message in error(**MAMBA | keys)


def test_lora_needs_attention_or_mlps() -> None:
    alone = {"attention_config": [[["mamba"], "all"]], "lora": {"rank": 2}}
    assert "lora: all layers are mamba layers" in error(**alone)
    assert any("mamba layers get no matrices" in n for n in run(**MAMBA, lora={"rank": 2}).notes)


def test_what_mamba_layers_do_not_do_is_noted() -> None:
    assert "hidden_dropout: mamba layers drop nothing, as in NeoX" in (
        run(**MAMBA, hidden_dropout=0.1).notes
    )
    assert any("changes nothing without mamba" in n for n in run(mamba_groups=2).notes)
