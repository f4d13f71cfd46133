"""The same logits as models of the transformers library, on random weights.

Each case builds a tiny model there and carries its weights over by hand. The torch reference is
held to them as well: what the other tests take for the truth is itself proven here.

The tolerance 1e-6 is that of two float32 forward passes: about ten roundings of 6e-8 in a row.
"""
# L layers, D hidden, K key-value heads, G query heads for each, N = K*G, H head, F mlp

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")

from jaxneox.config.layer_schema import Activation  # noqa: E402
from jaxneox.config.schema import (  # noqa: E402
    AttentionConfig,
    MlpConfig,
    ModelConfig,
    NormConfig,
    PositionConfig,
)
from tests.model.adapter import jax_logits  # noqa: E402
from tests.reference import neox_torch  # noqa: E402
from tests.reference.compare import relative_l2  # noqa: E402
from tests.reference.parameters import parameter_shapes  # noqa: E402

L, D, V, F, T = 2, 48, 40, 36, 16
Params = dict[str, np.ndarray]
Leaf = Callable[[str], np.ndarray]


class Case(NamedTuple):
    theirs: Any
    cfg: ModelConfig
    params: Params


def build(name: str, **options: Any) -> tuple[Any, Params]:
    """A model of transformers with no weight at a trivial value, and its weights by name."""
    config = getattr(transformers, f"{name}Config")(
        **{"vocab_size": V, "hidden_size": D, "num_hidden_layers": L} | options
    )
    head = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
    model = getattr(transformers, name + head)._from_config(config, attn_implementation="eager")
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=rng)
            scale = 0.3 if weight.ndim == 1 else D**-0.5
            is_norm_scale = weight.ndim == 1 and key.endswith("weight")
            weight.copy_(scale * noise + (1.0 if is_norm_scale else 0.0))
    return model.eval(), {key: leaf.numpy() for key, leaf in model.state_dict().items()}


def stacked(weights: Params, pattern: str) -> Leaf:
    """`leaf(name)`: that leaf of all layers [L, …]; `pattern` has a hole for the layer's number."""
    return lambda name: np.stack([weights[f"{pattern.format(i)}.{name}"] for i in range(L)])


def transposed(matrices: np.ndarray) -> np.ndarray:
    """[L, out, in] of torch's Linear -> [L, in, out]"""
    return matrices.swapaxes(1, 2)


def grouped(att: AttentionConfig, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Rows of queries [L, N*H, …], keys and values [L, K*H, …] -> [L, …, K, G+2, H]."""
    split = [x.reshape(L, att.kv_heads, -1, att.head_dim, *x.shape[2:]) for x in (q, k, v)]
    qkv = np.concatenate(split, axis=2)
    return qkv if q.ndim == 2 else np.moveaxis(qkv, -1, 1)


def heads_first(out: np.ndarray, att: AttentionConfig) -> np.ndarray:
    """[L, N*H, D] -> [L, K, G, H, D]"""
    return out.reshape(L, att.kv_heads, att.group, att.head_dim, D)


def norms(leaf: Leaf, ours: str, theirs: str) -> Params:
    return {f"{ours}.scale": leaf(f"{theirs}.weight"), f"{ours}.bias": leaf(f"{theirs}.bias")}


def gpt_neox(parallel: bool, theirs: str, ours: Activation) -> Case:
    model, weights = build(
        "GPTNeoX",
        num_attention_heads=3,
        intermediate_size=F,
        hidden_act=theirs,
        use_parallel_residual=parallel,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
        },
    )
    att = AttentionConfig(num_heads=3, kv_heads=3, head_dim=16)
    cfg = ModelConfig(
        L,
        D,
        V,
        T,
        att,
        MlpConfig(F, activation=ours),
        positions=PositionConfig("rotary", rotary_fraction=0.25),
        parallel_residual=parallel,
        tied_embedding=False,
    )
    leaf = stacked(weights, "gpt_neox.layers.{}")
    qkv, qkv_bias = (
        leaf(f"attention.query_key_value.{x}").reshape(L, 3, 3, 16, *rest)
        for x, rest in (("weight", (D,)), ("bias", ()))
    )
    params = {
        "embed.tokens": weights["gpt_neox.embed_in.weight"],
        "layers.attention.qkv": np.moveaxis(qkv, -1, 1),
        "layers.attention.qkv_bias": qkv_bias,
        "layers.attention.out": heads_first(transposed(leaf("attention.dense.weight")), att),
        "layers.attention.out_bias": leaf("attention.dense.bias"),
        "layers.mlp.up": transposed(leaf("mlp.dense_h_to_4h.weight")),
        "layers.mlp.up_bias": leaf("mlp.dense_h_to_4h.bias"),
        "layers.mlp.down": transposed(leaf("mlp.dense_4h_to_h.weight")),
        "layers.mlp.down_bias": leaf("mlp.dense_4h_to_h.bias"),
        **norms(leaf, "layers.norm1", "input_layernorm"),
        **norms(leaf, "layers.norm2", "post_attention_layernorm"),
        **norms(weights.__getitem__, "final_norm", "gpt_neox.final_layer_norm"),
        "unembed.weight": weights["lm_head.weight"].T,
    }
    return Case(model, cfg, params)


def gpt2() -> Case:
    """Learned positions, tied embedding, matrices stored [in, out], all queries first."""
    model, weights = build("GPT2", n_head=3, n_inner=F, n_positions=T)
    att = AttentionConfig(num_heads=3, kv_heads=3, head_dim=16)
    mlp = MlpConfig(F, activation="gelu_tanh")
    cfg = ModelConfig(L, D, V, T, att, mlp, positions=PositionConfig("learned", T))
    leaf = stacked(weights, "transformer.h.{}")
    qkv = np.split(transposed(leaf("attn.c_attn.weight")), 3, axis=1)
    params = {
        "embed.tokens": weights["transformer.wte.weight"],
        "embed.positions": weights["transformer.wpe.weight"],
        "layers.attention.qkv": grouped(att, *qkv),
        "layers.attention.qkv_bias": grouped(att, *np.split(leaf("attn.c_attn.bias"), 3, axis=1)),
        "layers.attention.out": heads_first(leaf("attn.c_proj.weight"), att),
        "layers.attention.out_bias": leaf("attn.c_proj.bias"),
        "layers.mlp.up": leaf("mlp.c_fc.weight"),
        "layers.mlp.up_bias": leaf("mlp.c_fc.bias"),
        "layers.mlp.down": leaf("mlp.c_proj.weight"),
        "layers.mlp.down_bias": leaf("mlp.c_proj.bias"),
        **norms(leaf, "layers.norm1", "ln_1"),
        **norms(leaf, "layers.norm2", "ln_2"),
        **norms(weights.__getitem__, "final_norm", "transformer.ln_f"),
    }
    return Case(model, cfg, params)


def opt() -> Case:
    """Relu, and learned positions two rows further down."""
    model, weights = build("OPT", num_attention_heads=3, ffn_dim=F, max_position_embeddings=T)
    att = AttentionConfig(num_heads=3, kv_heads=3, head_dim=16)
    positions = PositionConfig("learned", T + 2, offset=2)
    cfg = ModelConfig(L, D, V, T, att, MlpConfig(F, activation="relu"), positions=positions)
    leaf = stacked(weights, "model.decoder.layers.{}")
    matrices, biases = (
        [leaf(f"self_attn.{x}_proj.{kind}") for x in "qkv"] for kind in ("weight", "bias")
    )
    params = {
        "embed.tokens": weights["model.decoder.embed_tokens.weight"],
        "embed.positions": weights["model.decoder.embed_positions.weight"],
        "layers.attention.qkv": grouped(att, *matrices),
        "layers.attention.qkv_bias": grouped(att, *biases),
        "layers.attention.out": heads_first(transposed(leaf("self_attn.out_proj.weight")), att),
        "layers.attention.out_bias": leaf("self_attn.out_proj.bias"),
        "layers.mlp.up": transposed(leaf("fc1.weight")),
        "layers.mlp.up_bias": leaf("fc1.bias"),
        "layers.mlp.down": transposed(leaf("fc2.weight")),
        "layers.mlp.down_bias": leaf("fc2.bias"),
        **norms(leaf, "layers.norm1", "self_attn_layer_norm"),
        **norms(leaf, "layers.norm2", "final_layer_norm"),
        **norms(weights.__getitem__, "final_norm", "model.decoder.final_layer_norm"),
    }
    return Case(model, cfg, params)


def mpt() -> Case:
    """Alibi on six heads, which is no power of two, and no bias anywhere."""
    model, weights = build("Mpt", d_model=D, n_heads=6, n_layers=L, max_seq_len=T)
    att = AttentionConfig(num_heads=6, kv_heads=6, head_dim=8, bias=False)
    cfg = ModelConfig(
        L,
        D,
        V,
        T,
        att,
        MlpConfig(4 * D, activation="gelu", bias=False),
        norm=NormConfig(bias=False),
        positions=PositionConfig("alibi"),
    )
    leaf = stacked(weights, "transformer.blocks.{}")
    params = {
        "embed.tokens": weights["transformer.wte.weight"],
        "layers.norm1.scale": leaf("norm_1.weight"),
        "layers.norm2.scale": leaf("norm_2.weight"),
        "layers.attention.qkv": grouped(att, *np.split(leaf("attn.Wqkv.weight"), 3, axis=1)),
        "layers.attention.out": heads_first(transposed(leaf("attn.out_proj.weight")), att),
        "layers.mlp.up": transposed(leaf("ffn.up_proj.weight")),
        "layers.mlp.down": transposed(leaf("ffn.down_proj.weight")),
        "final_norm.scale": weights["transformer.norm_f.weight"],
    }
    return Case(model, cfg, params)


def llama(name: str, window: int | None = None, qk_norm: bool = False, **options: Any) -> Case:
    """Llama, Mistral (a window that counts the query itself) and Qwen 3 (rmsnorm of q and k)."""
    model, weights = build(
        name,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=F,
        head_dim=8,
        rms_norm_eps=1e-6,
        **options,
    )
    att = AttentionConfig(
        num_heads=6, kv_heads=2, head_dim=8, bias=False, qk_norm=qk_norm, window=window
    )
    cfg = ModelConfig(
        L,
        D,
        V,
        T,
        att,
        MlpConfig(F, activation="silu", gated=True, bias=False),
        norm=NormConfig("rmsnorm", 1e-6),
        positions=PositionConfig("rotary"),
        tied_embedding=False,
    )
    leaf = stacked(weights, "model.layers.{}")
    qkv = [leaf(f"self_attn.{x}_proj.weight") for x in "qkv"]
    params = {
        "embed.tokens": weights["model.embed_tokens.weight"],
        "layers.norm1.scale": leaf("input_layernorm.weight"),
        "layers.norm2.scale": leaf("post_attention_layernorm.weight"),
        "layers.attention.qkv": grouped(att, *qkv),
        "layers.attention.out": heads_first(transposed(leaf("self_attn.o_proj.weight")), att),
        "layers.mlp.up": transposed(leaf("mlp.up_proj.weight")),
        "layers.mlp.gate": transposed(leaf("mlp.gate_proj.weight")),
        "layers.mlp.down": transposed(leaf("mlp.down_proj.weight")),
        "final_norm.scale": weights["model.norm.weight"],
        "unembed.weight": weights["lm_head.weight"].T,
    }
    if qk_norm:
        params["layers.attention.qk_norm.scale"] = share_qk_norm(model)
    return Case(model, cfg, params)


def share_qk_norm(model: Any) -> np.ndarray:
    """Qwen scales q and k apart and all heads alike; NeoX q and k alike. -> [L, K, G, H]"""
    for layer in model.model.layers:
        layer.self_attn.k_norm.weight.data = layer.self_attn.q_norm.weight.data
    scales_LH = np.stack([x.self_attn.q_norm.weight.data.numpy() for x in model.model.layers])
    return np.broadcast_to(scales_LH[:, None, None], (L, 2, 3, 8))


CASES: Mapping[str, Callable[[], Case]] = {
    "GPTNeoX": lambda: gpt_neox(parallel=True, theirs="gelu", ours="gelu"),
    "GPTNeoX sequential": lambda: gpt_neox(parallel=False, theirs="gelu", ours="gelu"),
    "GPTNeoX gelu_fast": lambda: gpt_neox(parallel=True, theirs="gelu_fast", ours="gelu_tanh"),
    "GPT2": gpt2,
    "OPT": opt,
    "MPT": mpt,
    "Llama": lambda: llama("Llama"),
    "Mistral": lambda: llama("Mistral", window=4, sliding_window=5),
    "Qwen3": lambda: llama("Qwen3", qk_norm=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["reference", "jax"])
@pytest.mark.parametrize("name", CASES)
def test_logits_equal_those_of_transformers(name: str, engine: str) -> None:
    theirs, cfg, params = CASES[name]()
    assert {k: v.shape for k, v in params.items()} == parameter_shapes(cfg)
    tokens = np.random.default_rng(1).integers(0, V, (2, T))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    if engine == "reference":
        found = neox_torch.logits(params, cfg, tokens)
    else:
        found = jax_logits(cfg, params, tokens)
    assert relative_l2(found, expected) <= 1e-6
