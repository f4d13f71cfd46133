"""The function of our own parameters: the forward pass of the flat dictionary, in float64.

The layouts are those that `jaxneox/model` declares; the mathematics is that of `maths`.
"""
# B batch, T length, D hidden, V padded vocabulary, F inner width
# K key-value heads, G query heads for each of them, N = K G, H head

from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from convert.oracle.experts import choose, expert
from convert.oracle.mamba import StateSpace
from convert.oracle.maths import (
    ACTIVATIONS,
    Affine,
    Array,
    Heads,
    alibi,
    alibi_slopes,
    attend,
    f64,
    linear,
    normalize,
    relative,
    sinusoids,
)
from jaxneox.config.schema import ModelConfig

Leaf = Callable[[str, int | None], np.ndarray]
"""Reads a parameter by its dotted name; given a layer, it reads that layer without the layer
axis."""


class JaxneoxForward:
    """One stream (R = 1). `angle_dtype` is the type of rotary's angles: see `maths.angles`."""

    def __init__(self, model: ModelConfig, leaf: Leaf, angle_dtype: DTypeLike = np.float32):
        self.model, self.leaf, self.angle_dtype = model, leaf, angle_dtype
        self.layers = model.num_layers
        self.hidden = model.hidden_size
        self.vocab = model.vocab_size
        self._words: np.ndarray | None = None

    def embed(self, tokens_BT: np.ndarray) -> Array:
        """Embed tokens; the words are kept until a layer is applied, as many texts may come."""
        if self._words is None:
            self._words = self.leaf("embed.tokens", None)
        factors = self.model.multipliers
        x_BTD = factors.embedding * f64(self._words[tokens_BT])
        positions, T = self.model.positions, tokens_BT.shape[1]
        if positions.kind == "learned":
            own = slice(positions.offset, positions.offset + T)
            x_BTD = x_BTD + factors.positions * f64(self.leaf("embed.positions", None)[own])
        if positions.kind == "sinusoidal":
            x_BTD = x_BTD + factors.positions * sinusoids(T, self.hidden, self.angle_dtype)
        return x_BTD[None]

    def layer(self, index: int, streams_RBTD: Array) -> Array:
        self._words = None
        (x_BTD,) = streams_RBTD
        y_BTD = x_BTD
        into_attention = self._normalized("layers.norm1", index, x_BTD)
        if self.model.kinds[index] == "mamba":
            return (x_BTD + self._mamba(index, into_attention))[None]
        if not self.model.attention_dropped:
            y_BTD = y_BTD + self._attention(index, into_attention)
        if self.model.shared_norm:
            into_mlp = into_attention
        else:
            read = x_BTD if self.model.parallel_residual else y_BTD
            into_mlp = self._normalized("layers.norm2", index, read)
        if self.model.kinds[index] == "experts":
            return self._with_experts(index, x_BTD, y_BTD, into_mlp)[None]
        return (y_BTD + self._mlp(index, into_mlp))[None]

    def logits(self, streams_RBTD: Array) -> Array:
        x_BTD = self._normalized("final_norm", None, streams_RBTD[0])
        x_BTD = self.model.multipliers.output * x_BTD
        if self.model.head == "reward":
            return linear(x_BTD, self.leaf("reward.weight", None).T)
        if self.model.tied_embedding:
            weight_VD = self.leaf("embed.tokens", None)
        else:
            weight_VD = self.leaf("unembed.weight", None).T
        return linear(x_BTD, weight_VD, self._bias("unembed.bias", None, self.model.logit_bias))

    def _bias(self, name: str, layer: int | None, present: bool) -> Array | float:
        return f64(self.leaf(name, layer)) if present else 0.0

    def _norm(self, name: str, layer: int | None) -> Affine:
        match self.model.norm.kind:
            case "non_parametric_layernorm":
                return Affine()
            case "scalenorm":
                return Affine(f64(self.leaf(f"{name}.g", layer)))
            case "rmsnorm":
                return Affine(f64(self.leaf(f"{name}.scale", layer)))
            case "layernorm":
                bias = self._bias(f"{name}.bias", layer, self.model.norm.bias)
                return Affine(f64(self.leaf(f"{name}.scale", layer)), bias)

    def _normalized(self, name: str, layer: int | None, x_BTD: Array) -> Array:
        return normalize(x_BTD, self._norm(name, layer), self.model.norm)

    def _attention(self, layer: int, x_BTD: Array) -> Array:
        """Apply attention, including its bias, to normalised activations [B, T, D]."""
        (B, T, D), cfg = x_BTD.shape, self.model.attention
        weight = self.leaf("layers.attention.qkv", layer).reshape(D, -1).T
        bias = np.ravel(self._bias("layers.attention.qkv_bias", layer, cfg.bias))
        qkv = linear(x_BTD, weight, bias).reshape(B, T, cfg.kv_heads, cfg.group + 2, cfg.head_dim)
        q_BTNH = qkv[..., :-2, :].reshape(B, T, cfg.num_heads, cfg.head_dim)
        q_BTNH = self._normalized_heads("q_norm", layer, q_BTNH)
        k_BTKH = self._normalized_heads("k_norm", layer, qkv[..., -2, :])
        heads = Heads(q_BTNH, k_BTKH, v_BTKH=qkv[..., -1, :])
        bias_NT, qk_norm = self._score_bias(T), self._qk_norm(layer)
        mixed_BTNH = attend(heads, self.model, qk_norm, bias_NT, self.angle_dtype)
        out = self.leaf("layers.attention.out", layer).reshape(-1, D).T
        out_bias = self._bias("layers.attention.out_bias", layer, cfg.bias and cfg.output_bias)
        return linear(mixed_BTNH.reshape(B, T, -1), out, out_bias)

    def _normalized_heads(self, name: str, layer: int, x_BTNH: Array) -> Array:
        """Normalise queries or keys: each head alone with one scale for all, or all together."""
        if self.model.attention.qk_norm_joint:
            scale = f64(self.leaf(f"layers.attention.{name}.scale", layer)).ravel()
            joint = x_BTNH.reshape(*x_BTNH.shape[:2], -1)
            return normalize(joint, Affine(scale), self.model.norm).reshape(x_BTNH.shape)
        if not self.model.attention.qk_norm_per_head:
            return x_BTNH
        return self._normalized(f"layers.attention.{name}", layer, x_BTNH)

    def _qk_norm(self, layer: int) -> Affine:
        """Reshape scales [K, G, H] to [N, H]; the single number of a scalenorm stays as it is."""
        if not self.model.attention.qk_norm:
            return Affine()
        H = self.model.attention.head_dim
        learned = self._norm("layers.attention.qk_norm", layer)
        return Affine(*(np.reshape(x, (-1, H)) if np.ndim(x) == 3 else x for x in learned))

    def _score_bias(self, T: int) -> Array | float:
        """Return the score bias [N, T] by distance; rpe has one table for all layers."""
        N = self.model.attention.num_heads
        if self.model.positions.kind == "alibi":
            return alibi(alibi_slopes(N), T)
        if self.model.positions.kind == "rpe":
            return relative(self.leaf("embed.rpe", None).reshape(-1, N), T, self.model)
        return 0.0

    def _with_experts(self, layer: int, x_BTD: Array, y_BTD: Array, into_BTD: Array) -> Array:
        """Add a mixture to the stream y after attention, or, as NeoX may have, to x before it."""
        cfg = self.model.experts
        assert cfg is not None
        up, down = (self.leaf(f"layers.experts.{name}", layer) for name in ("up", "down"))
        gate = self.leaf("layers.experts.gate", layer) if cfg.gated else None
        choice = choose(into_BTD, self.leaf("layers.experts.router.weight", layer).T, cfg)
        mixed_BTD = sum(
            choice.weight_of(e)[..., None]
            * expert(into_BTD, up[e].T, down[e].T, cfg, None if gate is None else gate[e].T)
            for e in range(cfg.count)
        )
        if cfg.shared:
            up, down = (self.leaf(f"layers.experts.shared.{n}", layer) for n in ("up", "down"))
            gate = self.leaf("layers.experts.shared.gate", layer) if cfg.gated else None
            gate_FD = None if gate is None else gate.T
            mixed_BTD = mixed_BTD + expert(into_BTD, up.T, down.T, cfg, gate_FD)
        quirk = cfg.residual_quirk
        return x_BTD + quirk * mixed_BTD if quirk else y_BTD + mixed_BTD

    def _mlp(self, layer: int, x_BTD: Array) -> Array:
        """Apply the MLP, including its bias, to normalised activations [B, T, D]."""
        cfg = self.model.mlp
        activation = ACTIVATIONS[cfg.activation]

        def project(name: str, x: Array) -> Array:
            bias = self._bias(f"layers.mlp.{name}_bias", layer, cfg.bias)
            return linear(x, self.leaf(f"layers.mlp.{name}", layer).T, bias)

        up_BTF = project("up", x_BTD)
        if cfg.gated:
            return project("down", activation(project("gate", x_BTD)) * up_BTF)
        return project("down", activation(up_BTF))

    def _mamba(self, layer: int, x_BTD: Array) -> Array:
        """Apply the state space, including its bias, to normalised [B, T, D]: group by group."""
        cfg = self.model.mamba
        assert cfg is not None

        def leaf(name: str) -> np.ndarray:
            return self.leaf(f"layers.mamba.{name}", layer)

        weights = {name: leaf(name) for name in ("input", "gate", "conv", "step", "a_log", "out")}
        y_BTD = self._bias("layers.mamba.out_bias", layer, cfg.bias)
        for group, own in enumerate(np.split(np.arange(cfg.channels), cfg.groups)):
            of_group = {name: w[own] if name == "out" else w[:, own] for name, w in weights.items()}
            biased = cfg.bias
            y_BTD = y_BTD + StateSpace(
                of_group["input"].T,
                of_group["gate"].T,
                of_group["conv"].T,
                leaf("selection")[own].T,
                of_group["step"].T,
                leaf("step_bias")[own],
                of_group["a_log"].T,
                leaf("skip")[own],
                of_group["out"].T,
                f64(leaf("input_bias")[own]) if biased else 0.0,
                f64(leaf("gate_bias")[own]) if biased else 0.0,
                f64(leaf("conv_bias")[own]) if cfg.conv_bias else 0.0,
                f64(leaf("selection_bias")[group]) if biased else 0.0,
            )(x_BTD)
        return np.asarray(y_BTD)
