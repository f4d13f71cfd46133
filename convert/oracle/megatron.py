"""The function that Megatron-LM computed, at the tensor-parallel degree at which it was saved.

Every rank is computed from its own tensors, in its own layout, and the all-reduces are sums over
the ranks; biases of the two output matrices are added after them, by each rank its own copy.

Source: megatron/core/models/gpt/gpt_model.py, models/common/embeddings,
transformer/{attention,dot_product_attention,mlp,transformer_layer}.py at d98e8a64, and for
checkpoints before version 2 `fix_query_key_value_ordering`; layouts as measured on real files.
Without sequence parallelism.
"""
# R tensor-parallel ranks, B batch, T length, D hidden, V padded vocabulary, E = V / R
# N query heads, K groups, H head, F inner width of one rank, P pairs of dimensions that rope turns

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from convert.oracle.maths import (
    ACTIVATIONS,
    Affine,
    Array,
    Heads,
    angles,
    f64,
    linear,
    normalize,
    softmax_mixed,
)
from convert.oracle.neox import rows
from jaxneox.config.schema import ModelConfig

Tensors = Mapping[str, np.ndarray]
Ranks = Callable[[int | None], list[Tensors]]
"""Returns each rank's tensors, by megatron.core's names, of a layer or, given None, outside
layers."""


@dataclass(frozen=True)
class Conventions:
    """The reading of a checkpoint where its tensors do not show it.

    Attributes:
        version: the order of queries, keys and values: they are the outermost axis in version
            0, the innermost in version 1, and within each head from version 2 on.
        zero_centered: whether norms multiply by 1 + weight.
        interleaved: whether rope turns even dimensions with odd ones, not the two halves.
    """

    version: float = 3.0
    zero_centered: bool = False
    interleaved: bool = False


class MegatronForward:
    """Megatron-LM's ranks side by side, each with a residual stream of its own."""

    def __init__(self, model: ModelConfig, ranks: Ranks, conventions: Conventions) -> None:
        self.model, self.ranks, self.conventions = model, ranks, conventions
        self.layers = model.num_layers
        self.hidden = model.hidden_size
        self.vocab = model.vocab_size

    def embed(self, tokens_BT: np.ndarray) -> Array:
        """Embed tokens: words are summed over the ranks, learned positions are each rank's own."""
        shards = self.ranks(None)
        tables = [shard["embedding.word_embeddings.weight"] for shard in shards]
        starts = np.cumsum([0, *map(len, tables)])[:-1]
        words_BTD = sum(rows(t, tokens_BT - at) for t, at in zip(tables, starts, strict=True))
        streams_RBTD = np.stack([words_BTD] * len(shards))
        if self.model.positions.kind == "learned":
            T = tokens_BT.shape[1]
            own = [f64(shard["embedding.position_embeddings.weight"][:T]) for shard in shards]
            streams_RBTD += np.stack(own)[:, None]
        return streams_RBTD

    def layer(self, index: int, streams_RBTD: Array) -> Array:
        shards = self.ranks(index)
        attended_BTD = self._attention(shards, self._normalized("input_layernorm", shards,
                                                                streams_RBTD))  # fmt: skip
        x_RBTD = streams_RBTD + attended_BTD + bias("self_attention.linear_proj", shards)
        fed_BTD = self._mlp(shards, self._normalized("pre_mlp_layernorm", shards, x_RBTD))
        return x_RBTD + fed_BTD + bias("mlp.linear_fc2", shards)

    def logits(self, streams_RBTD: Array) -> Array:
        """Compute each rank's part of the vocabulary from its own stream and its own final norm."""
        shards = self.ranks(None)
        tied = "embedding.word_embeddings.weight"
        name = tied if self.model.tied_embedding else "output_layer.weight"
        x_RBTD = self._normalized("decoder.final_layernorm", shards, streams_RBTD)
        parts_BTE = [linear(x, shard[name]) for x, shard in zip(x_RBTD, shards, strict=True)]
        return np.concatenate(parts_BTE, axis=-1)

    def _normalized(self, name: str, shards: list[Tensors], x_RBTD: Array) -> Array:
        centre = 1.0 if self.conventions.zero_centered else 0.0
        affines = [
            Affine(f64(s[f"{name}.weight"]) + centre, f64(s.get(f"{name}.bias", 0.0)))
            for s in shards
        ]
        pairs = zip(x_RBTD, affines, strict=True)
        return np.stack([normalize(x, affine, self.model.norm) for x, affine in pairs])

    def _attention(self, shards: list[Tensors], x_RBTD: Array) -> Array:
        """Attend on normalised streams; return [B, T, D], the sum over the ranks, without the bias.

        If there are fewer groups than ranks, Megatron gathers all ranks' queries, keys and values.
        Here they are always gathered, because heads do not depend on each other.
        """
        name = "self_attention.linear_qkv"
        parts = [
            self._in_order(linear(x, s[f"{name}.weight"], f64(s.get(f"{name}.bias", 0.0))))
            for x, s in zip(x_RBTD, shards, strict=True)
        ]
        mixed_BTX = self._mixed(np.concatenate(parts, axis=-1))
        columns = np.split(mixed_BTX, len(shards), axis=-1)
        name = "self_attention.linear_proj.weight"
        return np.sum([linear(x, s[name]) for x, s in zip(columns, shards, strict=True)], axis=0)

    def _in_order(self, qkv_BTX: Array) -> Array:
        """Reorder one rank's rows from before version 2 to `[q | k | v]` for each head."""
        (B, T, X), H = qkv_BTX.shape, self.model.attention.head_dim
        if self.conventions.version == 0:
            parts = np.split(qkv_BTX, 3, axis=-1)
            return np.stack([p.reshape(B, T, -1, H) for p in parts], axis=3).reshape(B, T, X)
        if self.conventions.version == 1:
            per_head = qkv_BTX.reshape(B, T, -1, H, 3)
            return np.moveaxis(per_head, -1, -2).reshape(B, T, X)
        return qkv_BTX

    def _mixed(self, qkv_BTX: Array) -> Array:
        """Attend from rows `[q x N / K, k, v]` for each group; return [B, T, N H]."""
        cfg, (B, T, _) = self.model.attention, qkv_BTX.shape
        groups = qkv_BTX.reshape(B, T, cfg.kv_heads, cfg.group + 2, cfg.head_dim)
        q, k, v = np.split(groups, [cfg.group, cfg.group + 1], axis=3)
        q = self._turned(q.reshape(B, T, cfg.num_heads, cfg.head_dim))
        heads = Heads(q, self._turned(k[:, :, :, 0]), v[:, :, :, 0])
        return softmax_mixed(heads, np.zeros(T)).reshape(B, T, -1)

    def _turned(self, x_BTNH: Array) -> Array:
        """Turn the first `int(H * rotary_percent)` dimensions, pair i by `t * base ** (-i / P)`."""
        positions = self.model.positions
        if positions.kind != "rotary":
            return x_BTNH
        P = int(x_BTNH.shape[-1] * positions.rotary_fraction) // 2
        turn_TP = angles(x_BTNH.shape[1], 2 * P, positions.rotary_base, np.float32)
        cos, sin = np.cos(turn_TP)[:, None, :], np.sin(turn_TP)[:, None, :]
        turned = x_BTNH.copy()
        one, two = (slice(0, P), slice(P, 2 * P))
        if self.conventions.interleaved:
            one, two = (slice(0, 2 * P, 2), slice(1, 2 * P, 2))
        a, b = x_BTNH[..., one], x_BTNH[..., two]
        turned[..., one], turned[..., two] = a * cos - b * sin, b * cos + a * sin
        return turned

    def _mlp(self, shards: list[Tensors], x_RBTD: Array) -> Array:
        """Apply the MLP to normalised streams; return their sum [B, T, D] without the bias.

        A gated linear_fc1 has the rank's F rows that the activation is applied to, then F others.
        """
        cfg, name = self.model.mlp, "mlp.linear_fc1"
        activation, total_BTD = ACTIVATIONS[cfg.activation], np.zeros(x_RBTD.shape[1:])
        for x_BTD, shard in zip(x_RBTD, shards, strict=True):
            inner = linear(x_BTD, shard[f"{name}.weight"], f64(shard.get(f"{name}.bias", 0.0)))
            if cfg.gated:
                gate_BTF, up_BTF = np.split(inner, 2, axis=-1)
                inner = activation(gate_BTF) * up_BTF
            else:
                inner = activation(inner)
            total_BTD += linear(inner, shard["mlp.linear_fc2.weight"])
        return total_BTD


def bias(name: str, shards: list[Tensors]) -> Array:
    """Stack each rank's own copy as [R, 1, 1, D], or return zero if there is no bias."""
    copies = [f64(shard.get(f"{name}.bias", np.zeros(1))) for shard in shards]
    return np.stack(copies)[:, None, None]
