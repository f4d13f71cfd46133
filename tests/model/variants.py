"""Small models in which every option of the model appears at least once.

A variant is named by the words for what it changes in `BASE`, so that its name is all there is to
know about it.
"""

from dataclasses import replace
from typing import Any

from jaxneox.config.layer_schema import Activation
from jaxneox.config.mamba_schema import MambaConfig
from jaxneox.config.schema import (
    AttentionConfig,
    ExpertsConfig,
    MlpConfig,
    ModelConfig,
    NormConfig,
    PositionConfig,
    PositionKind,
    RopeScaling,
    RopeType,
)

# Sizes that no two axes share, an epsilon large enough to be missed, fewer tokens than positions.
BASE = ModelConfig(
    num_layers=2,
    hidden_size=32,
    vocab_size=40,
    seq_length=13,
    attention=AttentionConfig(num_heads=4, kv_heads=4, head_dim=8),
    mlp=MlpConfig(36, activation="gelu"),
    norm=NormConfig("layernorm", 1e-2),
    positions=PositionConfig("rotary", rotary_fraction=0.5),
)


def positions(kind: PositionKind, **options: Any) -> dict[str, Any]:
    return {"positions": PositionConfig(kind, max_positions=15, **options)}


def scaling(kind: RopeType, **options: Any) -> dict[str, Any]:
    return positions("rotary", rotary_base=100.0, scaling=RopeScaling(kind, 2.5, **options))


def heads(num_heads: int, kv_heads: int, head_dim: int = 8) -> dict[str, Any]:
    return {"attention": {"num_heads": num_heads, "kv_heads": kv_heads, "head_dim": head_dim}}


def state_space(**options: Any) -> dict[str, Any]:
    """A model of attention and state spaces by turns."""
    mamba = MambaConfig(channels=24, step_rank=3, state_size=5, **options)
    return {"mamba": mamba, "pattern": ("mamba", "dense")}


def experts(**options: Any) -> dict[str, Any]:
    """A model of mixtures of experts and MLPs by turns."""
    of_all = {"count": 4, "size": 20, "balance_loss": 0.3, "z_loss": 0.02}
    return {"experts": ExpertsConfig(**of_all | options), "pattern": ("experts", "dense")}


def activation(name: Activation, gated: bool = False) -> dict[str, Any]:
    return {"mlp": {"activation": name, "gated": gated}}


# What each word changes; a dict changes fields of a sub-config.
WORDS: dict[str, dict[str, Any]] = {
    "parallel": {"parallel_residual": True},
    "shared_norm": {"shared_norm": True},
    "attention_dropped": {"attention_dropped": True},
    "untied": {"tied_embedding": False},
    "logit_bias": {"logit_bias": True},
    "unbiased_norm": {"norm": {"bias": False}},
    "rmsnorm": {"norm": {"kind": "rmsnorm"}},
    # Some heads' queries are shorter than 1, some embeddings shorter than 5.
    "scalenorm": {"norm": {"kind": "scalenorm", "epsilon": 1.0}},
    "epsilon_5": {"norm": {"epsilon": 5.0}},
    "non_parametric": {"norm": {"kind": "non_parametric_layernorm"}},
    "qk_norm": {"attention": {"qk_norm": True}},
    "qk_norm_per_head": {"attention": {"qk_norm_per_head": True}},
    "qk_norm_joint": {"attention": {"qk_norm_joint": True}},
    "no_output_bias": {"attention": {"output_bias": False}},
    "wide_heads": {"attention": {"head_dim": 12}},
    "window": {"attention": {"window": 4}},
    "no_attention_bias": {"attention": {"bias": False}},
    "gqa": heads(4, 2),
    "mqa": heads(4, 1),
    "six_heads": heads(6, 3, head_dim=4),
    "full_rotary": positions("rotary", rotary_base=100.0),
    # The original length of 7 is shorter than the sequence: all of them scale.
    "linear": scaling("linear"),
    "dynamic": scaling("dynamic", original_max_position_embeddings=7),
    "yarn": scaling(
        "yarn", original_max_position_embeddings=7, attention_factor=1.2, beta_fast=1, beta_slow=0.1
    ),
    "llama3": scaling("llama3", original_max_position_embeddings=7, low_freq_factor=0.3),
    "learned": positions("learned"),
    "learned_offset": positions("learned", offset=2),
    "sinusoidal": positions("sinusoidal"),
    # Distance 8 lies on the edge of a bucket, where rounding decides.
    "rpe": positions("rpe", rpe_buckets=8, rpe_max_distance=16),
    "alibi": positions("alibi"),
    "no_positions": positions("none"),
    "gelu_tanh": activation("gelu_tanh"),
    "relu": activation("relu"),
    "silu": activation("silu"),
    "mish": activation("mish"),
    "softsign": activation("softsign"),
    "geglu": activation("gelu", gated=True),
    "reglu": activation("relu", gated=True),
    "swiglu": activation("silu", gated=True),
    "glu": activation("sigmoid", gated=True),
    "bilinear": activation("identity", gated=True),
    "no_mlp_bias": {"mlp": {"bias": False}},
    "mamba": state_space(),
    "mamba_groups": state_space(groups=2, conv_width=3, conv_bias=False),
    "mamba_biases": state_space(groups=4, bias=True),
    "no_attention": {"pattern": ("mamba",)},
    "multiplied": {"multipliers": {"embedding": 3.0, "positions": 0.7, "output": 0.4}},
    "scaled_scores": {"attention": {"scale": 0.5}},
    "experts": experts(),
    "experts_sinkhorn": experts(top_k=2, sinkhorn_rows=3),
    "experts_topk": experts(top_k=2, router="topk"),
    "experts_gated": experts(
        top_k=2, router="topk", gated=True, activation="silu", normalized=True
    ),
    "experts_shared": experts(top_k=3, router="topk", shared=2, normalized=True),
    "experts_capacity": experts(top_k=2, router="topk", capacity_factor=0.75),
    "experts_quirk": experts(router="topk", residual_quirk=2),
    "experts_alone": {"pattern": ("experts",)},
}

VARIANTS = [
    "",
    "parallel untied gelu_tanh",
    "parallel shared_norm",
    "parallel no_attention_bias mish",
    "parallel no_mlp_bias geglu rmsnorm",
    "parallel non_parametric glu",
    "parallel attention_dropped no_mlp_bias swiglu untied logit_bias",
    "parallel attention_dropped shared_norm learned",
    "logit_bias rmsnorm",
    "untied rmsnorm full_rotary swiglu gqa no_attention_bias no_mlp_bias",
    "learned gelu_tanh",
    "learned_offset relu gqa",
    "alibi unbiased_norm no_attention_bias no_mlp_bias",
    "alibi six_heads silu parallel",
    "rpe relu",
    "rpe six_heads parallel reglu untied",
    "sinusoidal scalenorm epsilon_5 softsign",
    "sinusoidal scalenorm parallel shared_norm mqa bilinear",
    "no_positions mqa silu",
    "window glu",
    "window mqa parallel untied bilinear",
    "window alibi gqa rmsnorm",
    "qk_norm",
    "qk_norm gqa parallel untied",
    "qk_norm six_heads rpe rmsnorm swiglu",
    "qk_norm scalenorm gqa parallel shared_norm",
    "qk_norm non_parametric mqa alibi",
    "qk_norm unbiased_norm learned window",
    "no_output_bias gqa swiglu rmsnorm no_mlp_bias window",
    "rmsnorm qk_norm_per_head wide_heads gqa linear",
    "rmsnorm qk_norm_per_head no_positions parallel mqa",
    "rmsnorm qk_norm_joint gqa linear",
    "wide_heads dynamic parallel untied",
    "yarn mqa no_output_bias",
    "rmsnorm qk_norm_per_head llama3 gqa",
    "mamba rmsnorm untied",
    "mamba_groups no_attention no_positions",
    "mamba_biases parallel alibi",
    "multiplied scaled_scores learned",
    "multiplied scaled_scores parallel untied alibi gqa",
    "multiplied sinusoidal",
]

EXPERTS = [
    "experts rmsnorm",
    "experts_sinkhorn untied",
    "experts_topk parallel",
    "experts_topk parallel shared_norm experts_alone",
    "experts_gated swiglu no_mlp_bias",
    "experts_shared experts_alone gqa",
    "experts_capacity alibi",
    "experts_quirk parallel",
]
"""Those with mixtures of experts."""


def configure(variant: str) -> ModelConfig:
    cfg = BASE
    for word in variant.split():
        for field, change in WORDS[word].items():
            if isinstance(change, dict):
                change = replace(getattr(cfg, field), **change)
            cfg = replace(cfg, **{field: change})
    if "wide_heads" in variant.split():  # together they are wider than the hidden size
        return cfg
    width = cfg.attention.num_heads * cfg.attention.head_dim
    return replace(cfg, hidden_size=width)
