"""The model's flat parameter dict: the name and shape of every leaf, and random values for them.

Letters: L layers, V padded vocabulary, P learned positions, R rpe buckets, D hidden, K key-value
heads, G query heads per key-value head, H head dim, F width of one MLP branch.
"""

import numpy as np

from jaxneox.config.schema import ModelConfig, NormConfig
from tests.reference.experts_torch import experts_shapes
from tests.reference.mamba_torch import mamba_shapes

Shape = tuple[int, ...]


def parameter_shapes(cfg: ModelConfig) -> dict[str, Shape]:
    """Every leaf that a model of this configuration has, in the order of the forward pass."""
    D, V = cfg.hidden_size, cfg.vocab_size
    heads = (cfg.attention.kv_heads, cfg.attention.group)
    shapes: dict[str, Shape] = {"embed.tokens": (V, D)}
    if cfg.positions.kind == "learned":
        shapes["embed.positions"] = (cfg.positions.max_positions, D)
    if cfg.positions.kind == "rpe":
        shapes["embed.rpe"] = (cfg.positions.rpe_buckets, *heads)
    for name, shape in _norm_shapes("norm1", cfg.norm, (D,)).items():
        shapes[f"layers.{name}"] = (cfg.num_layers, *shape)
    dense, mixed = cfg.kinds.count("dense"), cfg.kinds.count("experts")
    if dense + mixed:
        of_attention = _attention_shapes(cfg).items()
        shapes |= {f"layers.{name}": (dense + mixed, *shape) for name, shape in of_attention}
    if dense:
        shapes |= {f"layers.{name}": (dense, *shape) for name, shape in _mlp_shapes(cfg).items()}
    if cfg.experts is not None:
        for name, shape in experts_shapes(cfg.experts, D).items():
            shapes[f"layers.experts.{name}"] = (mixed, *shape)
    if cfg.mamba is not None:
        for name, shape in mamba_shapes(cfg.mamba, D).items():
            shapes[f"layers.mamba.{name}"] = (cfg.kinds.count("mamba"), *shape)
    shapes |= _norm_shapes("final_norm", cfg.norm, (D,))
    if cfg.head == "reward":
        return shapes | {"reward.weight": (D, 1)}
    if not cfg.tied_embedding:
        shapes["unembed.weight"] = (D, V)
    if cfg.logit_bias:
        shapes["unembed.bias"] = (V,)
    return shapes


def random_params(cfg: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Float32 values with no leaf at its trivial value: a forgotten bias or scale changes logits.

    Matrices have a standard deviation of `fan_in ** -0.5`, so that activations stay near 1;
    biases are N(0, 0.3), norm scales 1 + N(0, 0.3).
    """
    rng = np.random.default_rng(seed)
    return {
        name: _random_leaf(name, shape, rng).astype(np.float32)
        for name, shape in parameter_shapes(cfg).items()
    }


def _attention_shapes(cfg: ModelConfig) -> dict[str, Shape]:
    """The leaves of one attention and of the norm after it, without the leading L."""
    att, D = cfg.attention, cfg.hidden_size
    K, G, H = att.kv_heads, att.group, att.head_dim
    shapes: dict[str, Shape] = {}
    if not cfg.shared_norm:
        shapes |= _norm_shapes("norm2", cfg.norm, (D,))
    shapes["attention.qkv"] = (D, K, G + 2, H)
    shapes["attention.out"] = (K, G, H, D)
    if att.bias:
        shapes["attention.qkv_bias"] = (K, G + 2, H)
    if att.biased_output:
        shapes["attention.out_bias"] = (D,)
    if att.qk_norm:
        shapes |= _norm_shapes("attention.qk_norm", cfg.norm, (K, G, H))
    if att.qk_norm_per_head:
        shapes |= _norm_shapes("attention.q_norm", cfg.norm, (H,))
        shapes |= _norm_shapes("attention.k_norm", cfg.norm, (H,))
    if att.qk_norm_joint:
        shapes |= _norm_shapes("attention.q_norm", cfg.norm, (K, G, H))
        shapes |= _norm_shapes("attention.k_norm", cfg.norm, (K, H))
    return shapes


def _mlp_shapes(cfg: ModelConfig) -> dict[str, Shape]:
    """The leaves of one MLP."""
    mlp, D, F = cfg.mlp, cfg.hidden_size, cfg.mlp.size
    shapes: dict[str, Shape] = {"mlp.up": (D, F), "mlp.down": (F, D)}
    if mlp.gated:
        shapes["mlp.gate"] = (D, F)
    if mlp.bias:
        shapes |= {"mlp.up_bias": (F,), "mlp.down_bias": (D,)}
    if mlp.bias and mlp.gated:
        shapes["mlp.gate_bias"] = (F,)
    return shapes


def _norm_shapes(name: str, cfg: NormConfig, normalized: Shape) -> dict[str, Shape]:
    if cfg.kind == "non_parametric_layernorm":
        return {}
    if cfg.kind == "scalenorm":
        return {f"{name}.g": (1,)}
    shapes = {f"{name}.scale": normalized}
    if cfg.kind == "layernorm" and cfg.bias:
        shapes[f"{name}.bias"] = normalized
    return shapes


def _random_leaf(name: str, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("scale", "g"):
        return 1 + 0.3 * noise
    if leaf.endswith("bias"):
        return 0.3 * noise
    if leaf in ("a_log", "skip"):
        return 1 + 0.3 * noise
    if leaf in ("tokens", "positions", "rpe"):
        return 0.5 * noise
    if name == "layers.experts.router.weight":
        return noise / np.sqrt(shape[1])
    if name in ("layers.experts.up", "layers.experts.gate", "layers.experts.down"):
        return noise / np.sqrt(shape[2])
    # out [L,…,D] sums over all but its first and last axis; the others [L,D,…] over one.
    fan_in = np.prod(shape[1:-1]) if leaf == "out" else shape[0 if leaf == "weight" else 1]
    return noise / np.sqrt(fan_in)
