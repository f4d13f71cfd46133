"""Megatron-LM's tiny GPT-2 of the golden cases as our parameters: one step that it really took."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from jaxneox.config.schema import (
    AttentionConfig,
    InitConfig,
    MlpConfig,
    ModelConfig,
    OptimizerConfig,
    PositionConfig,
    ScheduleConfig,
)

HEADS, WIDTH, LAYERS, LENGTH = 2, 32, 2, 32

MODEL = ModelConfig(
    num_layers=LAYERS,
    hidden_size=WIDTH,
    vocab_size=256,
    seq_length=LENGTH,
    attention=AttentionConfig(num_heads=HEADS, kv_heads=HEADS, head_dim=WIDTH // HEADS),
    mlp=MlpConfig(size=4 * WIDTH, activation="gelu_tanh"),
    positions=PositionConfig(kind="learned", max_positions=64),
    init=InitConfig(),
    parallel_residual=False,
    tied_embedding=True,
)

# megatron/training/arguments.py: its defaults, where the case's command does not say otherwise
ADAM = OptimizerConfig(
    "adam", lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, grad_clip=1.0
)
CONSTANT = ScheduleConfig("constant", lr=1e-3)

NAMES = {
    "norm1.scale": "input_layernorm.weight",
    "norm1.bias": "input_layernorm.bias",
    "norm2.scale": "pre_mlp_layernorm.weight",
    "norm2.bias": "pre_mlp_layernorm.bias",
    "attention.qkv": "self_attention.linear_qkv.weight",
    "attention.qkv_bias": "self_attention.linear_qkv.bias",
    "attention.out": "self_attention.linear_proj.weight",
    "attention.out_bias": "self_attention.linear_proj.bias",
    "mlp.up": "mlp.linear_fc1.weight",
    "mlp.up_bias": "mlp.linear_fc1.bias",
    "mlp.down": "mlp.linear_fc2.weight",
    "mlp.down_bias": "mlp.linear_fc2.bias",
}


def ours(theirs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Their parameters, or gradients of them, under our names and in our shapes."""
    leaves = {
        f"layers.{name}": np.stack(
            [_shaped(name, theirs[f"decoder.layers.{i}.{other}"]) for i in range(LAYERS)]
        )
        for name, other in NAMES.items()
    }
    return leaves | {
        "embed.tokens": theirs["embedding.word_embeddings.weight"],
        "embed.positions": theirs["embedding.position_embeddings.weight"],
        "final_norm.scale": theirs["decoder.final_layernorm.weight"],
        "final_norm.bias": theirs["decoder.final_layernorm.bias"],
    }


def _shaped(name: str, w: np.ndarray) -> np.ndarray:
    """Theirs are [output, input]; a head's rows of QKV are its query, key and value."""
    if name.startswith("attention.qkv"):
        heads = w.reshape(HEADS, 3, WIDTH // HEADS, *w.shape[1:])
        return np.moveaxis(heads, -1, 0) if w.ndim == 2 else heads
    if name == "attention.out":
        return w.T.reshape(HEADS, 1, WIDTH // HEADS, WIDTH)
    return w.T


def after_its_step(case: Path) -> dict[str, np.ndarray]:
    """The parameters of the checkpoint that it wrote after the step."""
    import torch

    file = case / "legacy" / "iter_0000005" / "mp_rank_00" / "model_optim_rng.pt"
    saved = torch.load(file, pickle_module=_Lenient, weights_only=False)
    return {k: v.numpy() for k, v in saved["model"].items() if isinstance(v, torch.Tensor)}


class _Stub:
    def __init__(self, *args: Any): ...


class _Unpickler(pickle.Unpickler):
    """Megatron's own classes, which are not installed here, as stubs."""

    def find_class(self, module: str, name: str) -> Any:
        return _Stub if module.startswith("megatron") else super().find_class(module, name)


_Lenient = SimpleNamespace(Unpickler=_Unpickler, load=pickle.load, __name__="lenient")
