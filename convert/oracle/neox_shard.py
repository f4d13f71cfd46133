"""One model-parallel rank of GPT-NeoX: what it computes alone of one module, from its own tensors.

Source: GPT-NeoX at ea7aefd8, `megatron/model/{transformer,moe,moe_mlp}.py` and
`megatron/model/mamba/mamba.py`; names and layouts as measured on real files.
"""
# B batch, T length, D hidden, N query heads, K key-value heads of one rank, H head, F inner width

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from convert.oracle.experts import expert
from convert.oracle.mamba import StateSpace
from convert.oracle.maths import (
    ACTIVATIONS,
    Affine,
    Array,
    Heads,
    alibi,
    attend,
    f64,
    linear,
    normalize,
    relative,
)
from jaxneox.config.mamba_schema import MambaConfig
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError

SCALES = {"layernorm": "weight", "rmsnorm": "scale", "scalenorm": "g"}


@dataclass(frozen=True)
class Shard:
    """One rank's tensors of one module, and the computations that the rank makes alone."""

    model: ModelConfig
    tensors: Mapping[str, np.ndarray]
    where: str
    mp: int  # ranks in all
    angle_dtype: DTypeLike

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.tensors:
            raise UserError(f"{self.where}: no {name} among {', '.join(sorted(self.tensors))}")
        return self.tensors[name]

    def bias(self, name: str, expected: bool) -> Array | float:
        """Return a bias that is there, whatever the configuration says, because NeoX adds it."""
        return f64(self[name]) if expected or name in self.tensors else 0.0

    def norm(self, name: str) -> Affine:
        kind = self.model.norm.kind
        if kind == "non_parametric_layernorm":
            return Affine()
        bias = self.bias(f"{name}.bias", expected=self.model.norm.bias and kind == "layernorm")
        return Affine(f64(self[f"{name}.{SCALES[kind]}"]), bias)

    def normalized(self, name: str, x_BTD: Array) -> Array:
        return normalize(x_BTD, self.norm(name), self.model.norm)

    def attention(self, x_BTD: Array) -> Array:
        """Attend on normalised [B, T, D]; return this rank's term of the sum, without the bias."""
        (B, T, _), with_bias = x_BTD.shape, self.model.attention.bias
        bias = self.bias("attention.query_key_value.bias", with_bias)
        heads = self.heads(linear(x_BTD, self["attention.query_key_value.weight"], bias))
        qk_norm = self.norm("attention.qk_layernorm") if self.model.attention.qk_norm else Affine()
        mixed = attend(heads, self.model, qk_norm, self.score_bias(T), self.angle_dtype)
        return linear(mixed.reshape(B, T, -1), self["attention.dense.weight"])

    def heads(self, qkv: Array) -> Heads:
        """Split query_key_value's rows: per head [q|k|v]; with GQA per rank [all q|all k|all v]."""
        cfg, (B, T, _) = self.model.attention, qkv.shape
        N, K, H = cfg.num_heads // self.mp, cfg.kv_heads // self.mp, cfg.head_dim
        if cfg.group == 1:
            q, k, v = np.moveaxis(qkv.reshape(B, T, N, 3, H), 3, 0)
        else:
            q, k, v = np.split(qkv.reshape(B, T, N + 2 * K, H), [N, N + K], axis=2)
        return Heads(q, k, v)

    def score_bias(self, T: int) -> Array | float:
        """Return [N, T] by distance; every layer has a copy of rpe's table and alibi's slopes."""
        kind = self.model.positions.kind
        if kind == "alibi":
            return alibi(f64(self["attention.alibi_embed.slopes"]), T)
        if kind == "rpe":
            return relative(self["attention.rpe.weight"], T, self.model)
        return 0.0

    @property
    def attention_bias(self) -> Array | float:
        return self.bias("attention.dense.bias", self.model.attention.bias)

    def mlp(self, x_BTD: Array) -> Array:
        """Apply the MLP to normalised [B, T, D]; return this rank's term, without the bias.

        A gated linear1 has the rank's F rows that are multiplied, then the F rows of the gate.
        """
        cfg = self.model.mlp
        activation = ACTIVATIONS[cfg.activation]
        if "mlp.w1.weight" in self.tensors:  # LLaMAParallelMLP, of mlp_type llama
            gate_BTF = activation(linear(x_BTD, self["mlp.w1.weight"]))
            return linear(gate_BTF * linear(x_BTD, self["mlp.w3.weight"]), self["mlp.w2.weight"])
        inner = linear(x_BTD, self["mlp.linear1.weight"], self.bias("mlp.linear1.bias", cfg.bias))
        if cfg.gated:
            up_BTF, gate_BTF = np.split(inner, 2, axis=-1)
            return linear(activation(gate_BTF) * up_BTF, self["mlp.linear2.weight"])
        return linear(activation(inner), self["mlp.linear2.weight"])

    def experts(self, x_BTD: Array) -> list[Array]:
        """Compute each of this rank's experts of all tokens; both matrices are [width, hidden]."""
        cfg = self.model.experts
        assert cfg is not None
        count = cfg.count // self.mp
        w1, w2 = (np.split(self[f"mlp.experts.mlp.{name}"], count) for name in ("w1", "w2"))
        return [expert(x_BTD, up, down.T, cfg) for up, down in zip(w1, w2, strict=True)]

    @property
    def mlp_bias(self) -> Array | float:
        return self.bias("mlp.linear2.bias", self.model.mlp.bias)

    @property
    def mamba(self) -> MambaConfig:
        assert self.model.mamba is not None
        return self.model.mamba

    def state_space(self, x_BTD: Array) -> Array:
        """Apply this rank's channels to normalised [B, T, D], without the output's bias."""
        cfg = self.mamba
        in_bias = self.bias("mixer.in_proj.bias", cfg.bias)
        input_CD, gate_CD = np.split(self["mixer.in_proj.weight"], 2)
        input_bias, gate_bias = (0.0, 0.0) if np.ndim(in_bias) == 0 else np.split(in_bias, 2)
        return StateSpace(
            input_CD,
            gate_CD,
            self["mixer.conv1d.weight"][:, 0],
            self["mixer.x_proj.weight"],
            self["mixer.dt_proj.weight"],
            self["mixer.dt_proj.bias"],
            self["mixer.A_log"],
            self["mixer.D"],
            self["mixer.out_proj.weight"],
            input_bias,
            gate_bias,
            self.bias("mixer.conv1d.bias", cfg.conv_bias),
            self.bias("mixer.x_proj.bias", cfg.bias),
        )(x_BTD)
