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

import numpy as np
from numpy.typing import DTypeLike

from convert.oracle.experts import ExpertChoice, choose
from convert.oracle.maths import (
    Array,
    f64,
    linear,
    sinusoids,
)
from convert.oracle.neox_shard import Shard
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError

Ranks = Callable[[int], list[Mapping[str, np.ndarray]]]
"""Maps the index of a module in NeoX's sequence to each rank's tensors, by HEAD's names."""


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
        if self.model.kinds[index] == "experts":
            return self._with_experts(shards, streams_RBTD)
        if self.model.kinds[index] == "mamba":
            return self._mamba(shards, streams_RBTD)
        residual = self._parallel if self.model.parallel_residual else self._sequential
        return residual(shards, streams_RBTD)

    def _with_experts(self, shards: list[Shard], streams_RBTD: Array) -> Array:
        """Apply a layer with a mixture of experts, to which each rank contributes some.

        An expert reads what its own rank's norm makes of its own stream. With a parallel residual
        the attention is computed and dropped, and the complete sum of the experts is added up over
        the ranks once more (transformer.py:1113 and 1116).
        """
        middle_RBTD, times = streams_RBTD, len(shards)
        if not self.model.parallel_residual:
            middle_RBTD, times = self._attended(shards, streams_RBTD), 1
        into_RBTD = np.stack(
            [
                shard.normalized("post_attention_layernorm", x_BTD)
                for shard, x_BTD in zip(shards, middle_RBTD, strict=True)
            ]
        )
        outputs_EBTD = [
            output
            for shard, x_BTD in zip(shards, into_RBTD, strict=True)
            for output in shard.experts(x_BTD)
        ]
        choices = self._choices(shards, into_RBTD)
        mixed_RBTD = [
            sum(c.weight_of(e)[..., None] * y for e, y in enumerate(outputs_EBTD)) for c in choices
        ]
        return middle_RBTD + times * np.stack(mixed_RBTD)

    def _choices(self, shards: list[Shard], into_RBTD: Array) -> list[ExpertChoice]:
        """Choose experts on each rank; a sinkhorn router does so on the first, for all."""
        cfg = self.model.experts
        assert cfg is not None
        routers = [shard["mlp.router.layer.weight"] for shard in shards]
        if cfg.router == "sinkhorn":
            return [choose(into_RBTD[0], routers[0], cfg)] * len(shards)
        return [choose(x, w, cfg) for x, w in zip(into_RBTD, routers, strict=True)]

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

    def _values(self, norms: list[Shard], streams_RBTD: Array) -> Array:
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

    def _parallel(self, shards: list[Shard], streams_RBTD: Array) -> Array:
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

    def _sequential(self, shards: list[Shard], streams_RBTD: Array) -> Array:
        """Make two all-reduces, and after each let every rank add its own copy of the bias."""
        middle_RBTD = self._attended(shards, streams_RBTD)
        fed_BTD = sum(
            shard.mlp(shard.normalized("post_attention_layernorm", x_BTD))
            for shard, x_BTD in zip(shards, middle_RBTD, strict=True)
        )
        return np.stack(
            [x + fed_BTD + s.mlp_bias for s, x in zip(shards, middle_RBTD, strict=True)]
        )

    def _attended(self, shards: list[Shard], streams_RBTD: Array) -> Array:
        """Add the attention's sum over the ranks to each stream, and then each rank's own bias."""
        attended_BTD = sum(
            shard.attention(shard.normalized("input_layernorm", x_BTD))
            for shard, x_BTD in zip(shards, streams_RBTD, strict=True)
        )
        return np.stack(
            [x + attended_BTD + s.attention_bias for s, x in zip(shards, streams_RBTD, strict=True)]
        )

    def _mamba(self, shards: list[Shard], streams_RBTD: Array) -> Array:
        """Sum over the ranks what each makes of its own channels; x_proj has no reduction.

        The output's bias is each rank's own, added after the sum.
        """
        each = zip(shards, streams_RBTD, strict=True)
        total_BTD = sum(shard.state_space(shard.normalized("norm", x)) for shard, x in each)
        biases = [shard.bias("mixer.out_proj.bias", shard.mamba.bias) for shard in shards]
        return np.stack(
            [x + total_BTD + bias for x, bias in zip(streams_RBTD, biases, strict=True)]
        )

    def _shards(self, module: int) -> list[Shard]:
        tensors = self.ranks(module)
        return [
            Shard(self.model, t, f"module {module}, rank {rank}", len(tensors), self.angle_dtype)
            for rank, t in enumerate(tensors)
        ]


def rows(table_ED: np.ndarray, tokens_BT: np.ndarray) -> Array:
    """Look up the tokens [B, T, D] in this part of the vocabulary; other tokens become zeros."""
    mine_BT = (tokens_BT >= 0) & (tokens_BT < len(table_ED))
    found_BTD = np.zeros((*tokens_BT.shape, table_ED.shape[1]))
    found_BTD[mine_BT] = table_ED[tokens_BT[mine_BT]]
    return found_BTD
