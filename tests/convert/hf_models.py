"""Random jaxneox checkpoints of the architectures that transformers has, and their variants."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import to_hf
from convert.writers.jaxneox import JaxneoxWriter
from jaxneox.config import Settings, saved_keys
from jaxneox.config.schema import ModelConfig
from jaxneox.data import Tokenizer
from tests.reference.parameters import random_params

Keys = dict[str, Any]
Params = dict[str, np.ndarray]

COMMON: Keys = {
    "num_layers": 2,
    "hidden_size": 48,
    "num_attention_heads": 6,
    "seq_length": 16,
    "max_position_embeddings": 24,
    "padded_vocab_size": 40,
    "train_iters": 1,
    "train_micro_batch_size_per_gpu": 1,
}
GPT_NEOX: Keys = COMMON | {
    "pos_emb": "rotary",
    "rotary_pct": 0.25,
    "gpt_j_residual": True,
    "no_weight_tying": True,
    "intermediate_size": 36,
}
LLAMA: Keys = COMMON | {
    "norm": "rmsnorm",
    "rms_norm_epsilon": 1e-6,
    "pos_emb": "rotary",
    "activation": "swiglu",
    "intermediate_size": 3 * 36,
    "num_kv_heads": 2,
    "use_bias_in_attn_linear": False,
    "use_bias_in_mlp": False,
    "no_weight_tying": True,
}
MISTRAL: Keys = LLAMA | {"sliding_window_width": 7, "head_dim": 12}
QWEN2: Keys = LLAMA | {"use_bias_in_attn_linear": True, "attention_output_bias": False}
QWEN3: Keys = LLAMA | {"qk_norm_per_head": True, "head_dim": 16}
GPT2: Keys = COMMON | {"pos_emb": "learned", "bias_gelu_fusion": True, "layernorm_epsilon": 1e-6}

MAMBA: Keys = {
    **COMMON,
    "attention_config": [[["mamba"], "all"]],
    "norm": "rmsnorm",
    "rms_norm_epsilon": 1e-6,
    "pos_emb": "none",
    "expansion_factor": 3.0,
    "num_attention_heads": 1,
    "max_position_embeddings": 2048,
}

ORIGINAL: Keys = {"factor": 4.0, "original_max_position_embeddings": 6}
"""Shorter than what is computed, so that the scaling shows."""
FREQUENCIES: Keys = {"low_freq_factor": 0.2, "high_freq_factor": 0.9}

MODELS: Mapping[str, tuple[str, Keys]] = {
    "neox": ("GPTNeoXForCausalLM", GPT_NEOX),
    "neox gelu by tanh": ("GPTNeoXForCausalLM", GPT_NEOX | {"bias_gelu_fusion": True}),
    "neox sequential": ("GPTNeoXForCausalLM", GPT_NEOX | {"gpt_j_residual": False}),
    "neox tied": ("GPTNeoXForCausalLM", GPT_NEOX | {"no_weight_tying": False}),
    "neox without attention biases": (
        "GPTNeoXForCausalLM",
        GPT_NEOX | {"use_bias_in_attn_linear": False},
    ),
    "neox, whole heads, another base": (
        "GPTNeoXForCausalLM",
        GPT_NEOX | {"rotary_pct": 1.0, "rotary_emb_base": 500, "activation": "relu"},
    ),
    "llama": ("LlamaForCausalLM", LLAMA),
    "llama of 4.x": ("LlamaForCausalLM", LLAMA | {"rotary_emb_base": 500000}),
    "llama with biases, tied": (
        "LlamaForCausalLM",
        LLAMA
        | {"use_bias_in_attn_linear": True, "use_bias_in_mlp": True, "no_weight_tying": False},
    ),
    "llama, a head each, geglu": (
        "LlamaForCausalLM",
        LLAMA | {"num_kv_heads": 6, "activation": "geglu"},
    ),
    "llama, heads that together are wider": ("LlamaForCausalLM", LLAMA | {"head_dim": 12}),
    "llama scaled as llama 3": (
        "LlamaForCausalLM",
        LLAMA | {"rope_scaling": {"type": "llama3", **ORIGINAL, **FREQUENCIES}},
    ),
    "neox scaled linearly": (
        "GPTNeoXForCausalLM",
        GPT_NEOX | {"rotary_pct": 0.5, "rope_scaling": {"type": "linear", "factor": 3.0}},
    ),
    "mistral": ("MistralForCausalLM", MISTRAL),
    "mistral, heads that do not divide the hidden size": (
        "MistralForCausalLM",
        LLAMA | {"num_attention_heads": 10, "num_kv_heads": 5, "head_dim": 8},
    ),
    "mistral scaled dynamically": (
        "MistralForCausalLM",
        MISTRAL | {"rope_scaling": {"type": "dynamic", **ORIGINAL}},
    ),
    "qwen2": ("Qwen2ForCausalLM", QWEN2),
    "qwen2 tied, a window, yarn": (
        "Qwen2ForCausalLM",
        QWEN2
        | {"no_weight_tying": False, "sliding_window_width": 5}
        | {"rope_scaling": {"type": "yarn", **ORIGINAL, "beta_fast": 2.0, "beta_slow": 0.1}},
    ),
    "qwen3": ("Qwen3ForCausalLM", QWEN3),
    "qwen3 with biases": ("Qwen3ForCausalLM", QWEN3 | {"use_bias_in_attn_linear": True}),
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "mamba": ("MambaForCausalLM", MAMBA),
    "mamba, other sizes, untied": (
        "MambaForCausalLM",
        MAMBA
        | {"mamba_state_size": 5, "mamba_conv_width": 3, "mamba_step_rank": 2}
        | {"mamba_use_bias_in_conv": False, "no_weight_tying": True},
    ),
    "gpt2 gelu by erf, untied": (
        "GPT2LMHeadModel",
        GPT2 | {"bias_gelu_fusion": False, "no_weight_tying": True, "intermediate_size": 36},
    ),
}


def write_run(
    folder: Path,
    keys: Keys,
    dtype: Any = np.float32,
    tokenizer: Tokenizer | None = None,
    step: int = 3,
) -> tuple[ModelConfig, Params]:
    """A checkpoint of the model that `keys` describe, with no leaf at a trivial value."""
    config = Settings(keys).resolve(dp=1, vocab_size=None)
    params = {name: x.astype(dtype) for name, x in random_params(config.model, seed=0).items()}
    leaves = {name: (x.shape, x.dtype) for name, x in params.items()}
    writer = JaxneoxWriter(folder, step, leaves)
    for name, x in params.items():
        writer.write(name, None, x)
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer")
    writer.finish(saved_keys(config), {})
    return config.model, params


def export(folder: Path, *argv: str, keys: Keys = LLAMA, tokenizer: Any = None) -> Path:
    """A run in `folder` and what `to_hf` makes of it."""
    write_run(folder / "run", keys, tokenizer=tokenizer)
    with pytest.raises(SystemExit) as stopped:
        to_hf.main([str(folder / "run"), str(folder / "hf"), *argv])
    assert stopped.value.code == 0
    return folder / "hf"


def change_config(folder: Path, **changes: Any) -> None:
    """config.json with other values; None takes a key away."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    kept = {name: value for name, value in config.items() if changes.get(name, 0) is not None}
    path.write_text(json.dumps(kept))
