"""The function that GPT-NeoX computed, at the model-parallel degree at which it was saved.

Every rank is computed by itself from its own tensors, in its own layout, and the all-reduces are
sums over the ranks. If replicas drifted apart, each rank continues with its own.

Source: GPT-NeoX at ea7aefd8, `megatron/model/{transformer,word_embeddings,gpt2_model}.py` and
`megatron/mpu/layers.py`; names and layouts as measured on real files. Without sequence parallelism,
in which each rank applies its replicas to its own part of the sequence, not of the features.
"""
# R model-parallel ranks, B batch, T length, D hidden, V padded vocabulary, E = V / R
# N query heads, K key-value heads of one rank, H head, F inner width of one rank

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

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
    sinusoids,
)
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError

Ranks = Callable[[int], list[Mapping[str, np.ndarray]]]
"""Maps the index of a module in NeoX's sequence to each rank's tensors, by HEAD's names."""

SCALES = {"layernorm": "weight", "rmsnorm": "scale", "scalenorm": "g"}


class NeoxForward:
    """NeoX's ranks: module 0 embeds, 2.. are the L blocks, L + 3 the final norm, L + 4 the head.

    `angle_dtype` is the type in which the run multiplied rotary's frequencies by the positions: see
    `maths.angles`.
    """

    def __init__(self, model: ModelConfig, ranks: Ranks, angle_dtype: DTypeLike = np.float32):
        if not (model.mlp.bias or model.mlp.gated):
            raise UserError(
                "use_bias_in_mlp is false with an activation that is not gated: GPT-NeoX fails on "
                "this (TypeError), so there is nothing that it computed; save zero biases instead"
            )
        self.model, self.ranks, self.angle_dtype = model, ranks, angle_dtype
        self.layers = model.num_layers
        self.hidden = model.hidden_size
        self.vocab = model.vocab_size
        # bias_dropout_add adds the attention's output only together with the MLP's bias.
        self.drops_attention = model.parallel_residual and not model.mlp.bias

    def embed(self, tokens_BT: np.ndarray) -> Array:
        """Embed tokens: words are summed over the ranks, learned positions are each rank's own."""
        shards, (_, T) = self._shards(0), tokens_BT.shape
        tables = [shard["word_embeddings.weight"] for shard in shards]
        starts = np.cumsum([0, *map(len, tables)])[:-1]
        words_BTD = np.zeros((*tokens_BT.shape, self.hidden))
        for table, at in zip(tables, starts, strict=True):
            words_BTD += rows(table, tokens_BT - at)
        positions, factor = self.model.positions, self.model.multipliers.positions
        if positions.kind == "sinusoidal":
            words_BTD = words_BTD + factor * sinusoids(T, self.hidden, self.angle_dtype)
        if positions.kind == "learned":
            own = slice(positions.offset, positions.offset + T)
            tables_RTD = [f64(shard["position_embeddings.weight"][own]) for shard in shards]
            return words_BTD + factor * np.stack(tables_RTD)[:, None]
        return np.broadcast_to(words_BTD, (len(shards), *words_BTD.shape))

    def layer(self, index: int, streams_RBTD: Array) -> Array:
        shards = self._shards(2 + index)
        residual = self._parallel if self.model.parallel_residual else self._sequential
        return residual(shards, streams_RBTD)

    def logits(self, streams_RBTD: Array) -> Array:
        """Compute each rank's part of the vocabulary from its own stream and its own final norm."""
        norms = self._shards(self.layers + 3)
        if self.model.head == "reward":
            return self._values(norms, streams_RBTD)
        if self.model.tied_embedding:
            heads = [shard["word_embeddings.weight"] for shard in self._shards(0)]
        else:
            heads = [shard["final_linear.weight"] for shard in self._shards(self.layers + 4)]
        parts_BTE = [
            linear(norm.normalized("norm", x_BTD), head)
            for norm, head, x_BTD in zip(norms, heads, streams_RBTD, strict=True)
        ]
        return self.model.multipliers.output * np.concatenate(parts_BTE, axis=-1)

    def _values(self, norms: "list[Shard]", streams_RBTD: Array) -> Array:
        """Sum over the ranks what each makes of its part of the hidden state: [B, T, 1].

        The head is a RowParallelLinear whose input is not parallel: every rank cuts its part out of
        what its own copy of the norm returns.
        """
        heads = [shard["rm_linear.weight"] for shard in self._shards(self.layers + 4)]
        total_BTO, start = np.zeros((*streams_RBTD.shape[1:3], 1)), 0
        for norm, head_OS, x_BTD in zip(norms, heads, streams_RBTD, strict=True):
            part = slice(start, start + head_OS.shape[1])
            total_BTO += linear(norm.normalized("norm", x_BTD)[..., part], head_OS)
            start = part.stop
        return total_BTO

    def _parallel(self, shards: "list[Shard]", streams_RBTD: Array) -> Array:
        """Compute `x + sum over ranks of (attention + its bias + mlp + its bias)`.

        The one all-reduce comes after the biases, so it counts every rank's copy (issue 962).
        """
        second = "input_layernorm" if self.model.shared_norm else "post_attention_layernorm"
        total_BTD = np.zeros(streams_RBTD.shape[1:])
        for shard, x_BTD in zip(shards, streams_RBTD, strict=True):
            if not self.drops_attention:
                total_BTD += shard.attention(shard.normalized("input_layernorm", x_BTD))
                total_BTD += shard.attention_bias
            total_BTD += shard.mlp(shard.normalized(second, x_BTD)) + shard.mlp_bias
        return streams_RBTD + total_BTD

    def _sequential(self, shards: "list[Shard]", streams_RBTD: Array) -> Array:
        """Make two all-reduces, and after each let every rank add its own copy of the bias."""
        attended_BTD = sum(
            shard.attention(shard.normalized("input_layernorm", x_BTD))
            for shard, x_BTD in zip(shards, streams_RBTD, strict=True)
        )
        middle_RBTD = np.stack(
            [x + attended_BTD + s.attention_bias for s, x in zip(shards, streams_RBTD, strict=True)]
        )
        fed_BTD = sum(
            shard.mlp(shard.normalized("post_attention_layernorm", x_BTD))
            for shard, x_BTD in zip(shards, middle_RBTD, strict=True)
        )
        return np.stack(
            [x + fed_BTD + s.mlp_bias for s, x in zip(shards, middle_RBTD, strict=True)]
        )

    def _shards(self, module: int) -> "list[Shard]":
        tensors = self.ranks(module)
        return [
            Shard(self.model, t, f"module {module}, rank {rank}", len(tensors), self.angle_dtype)
            for rank, t in enumerate(tensors)
        ]


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

    @property
    def mlp_bias(self) -> Array | float:
        return self.bias("mlp.linear2.bias", self.model.mlp.bias)


def rows(table_ED: np.ndarray, tokens_BT: np.ndarray) -> Array:
    """Look up the tokens [B, T, D] in this part of the vocabulary; other tokens become zeros."""
    mine_BT = (tokens_BT >= 0) & (tokens_BT < len(table_ED))
    found_BTD = np.zeros((*tokens_BT.shape, table_ED.shape[1]))
    found_BTD[mine_BT] = table_ED[tokens_BT[mine_BT]]
    return found_BTD
