"""How one function becomes k ranks: our leaves cut into the tensors of NeoX's ranks."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convert.apply import layer_of
from convert.fate import Fate, bit_sum
from convert.neox_tokenizer import for_neox
from convert.readers.jaxneox import JaxneoxCheckpoint
from convert.rules import neox
from convert.rules.rule import Role, Rule, sizes_of
from convert.unfold import unfolded
from jaxneox.config.keys.further import OURS
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError
from jaxneox.model.positions import alibi_slopes, frequencies

Tensors = dict[str, np.ndarray]


class Layout(NamedTuple):
    mp: int
    pp: int  # 0: the Sequential engine
    old_names: bool  # those of 2023

    def __str__(self) -> str:
        return f"model-parallel-size {self.mp}, pipe-parallel-size {self.pp}"


class Split:
    """Raises UserError, with every reason, where NeoX's ranks cannot have the model's function.

    Attributes:
        warnings: what a user of the files should know.
    """

    def __init__(self, source: JaxneoxCheckpoint, layout: Layout) -> None:
        self.source, self.layout = source, layout
        refuse_layout(source.model, layout)
        self.warnings: list[str] = []
        self.model = replace(self._padded(source.model), logit_bias=False)
        self.tokenizer = source.tokenizer
        if self.tokenizer is None:
            named = source.keys.get("vocab_file")
            stays = f"vocab-file stays {named}" if named else "has no vocab-file"
            self.warnings.append(f"there is no tokenizer here: the YAML {stays}")
        else:
            self.tokenizer, notes = for_neox(self.tokenizer)
            self.warnings += notes
        self._own_biases: list[np.ndarray] = []
        if source.model.logit_bias:
            weight_DV, bias_V = (self._leaf(f"unembed.{name}", None) for name in ("weight", "bias"))
            self._own_biases = unfolded(weight_DV, bias_V, layout.mp)
            self.warnings.append(
                "the ranks' copies of the final norm's bias differ, as those did that this model "
                "came from: tools that merge by averaging will lose it"
            )

    @cached_property
    def dtype(self) -> np.dtype:
        """One type for all, in which each leaf is exact."""
        return np.result_type(*(self.source.dtype(name) for name in self.source.shapes))

    @property
    def rules(self) -> Mapping[int, tuple[Rule, ...]]:
        return neox.modules(self.model)

    @property
    def nbytes(self) -> int:
        sizes = sizes_of(self.model, self.layout.mp)
        elements = sum(
            int(np.prod(rule.shape(sizes))) for rules in self.rules.values() for rule in rules
        )
        return elements * self.layout.mp * self.dtype.itemsize

    def modules(self) -> Iterator[tuple[int, list[Tensors], list[Fate]]]:
        """(Sequential index, each rank's tensors, their account), a module in memory at a time."""
        for index in self.rules:
            yield index, *self._module(index)

    def _account(
        self, rule: Rule, index: int, leaves: Mapping[str, np.ndarray], shards: list[np.ndarray]
    ) -> Fate:
        """Of one tensor of ours as the ranks have it, counted after it was cut."""
        whole = [leaves[part.leaf] for part in rule.parts]
        mp, elements = len(shards), sum(shard.size for shard in shards)
        common = (rule.theirs, index, layer_of(index, self.model), mp, shards[0].shape,
                  self.dtype.name, " + ".join(part.leaf for part in rule.parts))  # fmt: skip
        if rule.role is Role.SPLIT:
            sizes = sizes_of(self.model, mp)
            ours = [leaves[p.leaf][p.region(sizes, rank)] for p in rule.parts for rank in range(mp)]
            same_bits = sum(map(bit_sum, ours)) == sum(map(bit_sum, shards))
            used = sum(region.size for region in ours)
            return Fate(*common, "split: each rank has a share", elements, used, 0, same_bits)
        total = np.sum([shard.astype(np.float64) for shard in shards], axis=0)
        if self._divides(rule) and mp > 1:
            changed = int((total.astype(self.dtype) != whole[0]).sum())
            said = f"divided into {mp} shares, whose sum is it"
            return Fate(*common, said, elements, elements, changed)
        changed = sum(int((shard != whole[0]).sum()) for shard in shards)
        said = "copied to every rank"
        if changed:
            said = "a copy of its own for each rank: what folding had put into the logits' bias"
        return Fate(*common, said, elements, elements, changed)

    def _divides(self, rule: Rule) -> bool:
        return rule.role is Role.BIAS and self.model.parallel_residual

    def keys(self, dst: Path) -> dict[str, Any]:
        """The YAML: the run's, with what these files need.

        `finetune` because there are weights alone: with `no_load_optim` NeoX HEAD would train the
        first parameter only, by its get_optimizer.
        """
        source = self.source
        keys = {n: v for n, v in source.keys.items() if n not in (*OURS, "padded_vocab_size")}
        if "max_micro_batch_size" in source.keys:
            keys["train_micro_batch_size_per_gpu"] = source.keys["max_micro_batch_size"]
        keys |= {
            "model_parallel_size": self.layout.mp,
            "pipe_parallel_size": self.layout.pp,
            "make_vocab_size_divisible_by": self._multiple(),
            "use_bias_in_norms": True,
            "load": str(dst),
            "finetune": True,
        }
        if self.tokenizer is not None:
            files = [str(dst / "tokenizer" / name) for name in self.tokenizer.files]
            keys = {n: v for n, v in keys.items() if n not in ("vocab_file", "merge_file")}
            keys |= dict(zip(("vocab_file", "merge_file"), files, strict=False))
            keys["tokenizer_type"] = self.tokenizer.name
        return keys

    def args(self) -> dict[str, Any]:
        """What NeoX holds against the YAML when it loads."""
        m = self.model
        return {
            "num_layers": m.num_layers,
            "hidden_size": m.hidden_size,
            "num_attention_heads": m.attention.num_heads,
            "max_position_embeddings": m.positions.max_positions,
            "make_vocab_size_divisible_by": self._multiple(),
            "padded_vocab_size": m.vocab_size,
            "model_parallel_size": self.layout.mp,
        }

    def _padded(self, model: ModelConfig) -> ModelConfig:
        """The vocabulary's rows must divide over the ranks; as it is, wherever they do."""
        rows = -(-model.vocab_size // self.layout.mp) * self.layout.mp
        if rows != model.vocab_size:
            self.warnings.append(
                f"{rows - model.vocab_size} rows of zeros were added to the vocabulary's "
                f"{model.vocab_size}, for {self.layout.mp} ranks: their logits are 0, which a "
                "softmax over all rows sees"
            )
        return replace(model, vocab_size=rows)

    def _multiple(self) -> int:
        """make-vocab-size-divisible-by such that NeoX pads its tokenizer's vocabulary to ours."""
        keys, rows, mp = self.source.keys, self.model.vocab_size, self.layout.mp
        multiple = keys.get("make_vocab_size_divisible_by", 128)
        tokenizer = self.tokenizer
        known = tokenizer is not None and -(-tokenizer.vocab_size // (multiple * mp)) == rows / (
            multiple * mp
        )
        same = keys.get("model_parallel_size", 1) == mp and rows % (multiple * mp) == 0
        return multiple if known or same else rows // mp

    def _module(self, index: int) -> tuple[list[Tensors], list[Fate]]:
        layer = layer_of(index, self.model)
        rules = self.rules[index] + (neox.shared(self.model) if layer is not None else ())
        leaves = {leaf: self._leaf(leaf, layer) for rule in rules for leaf in rule.leaves}
        sizes = sizes_of(self.model, self.layout.mp)
        ranks: list[Tensors] = [{} for _ in range(self.layout.mp)]
        fates = []
        for rule in rules:
            shards = self._ranks(rule, leaves, sizes)
            fates.append(self._account(rule, index, leaves, shards))
            for tensors, shard in zip(ranks, shards, strict=True):
                tensors[rule.theirs] = shard
        if layer is not None:
            for rank, tensors in enumerate(ranks):
                further = self._unused(tensors) | self._buffers(rank)
                tensors |= further
                if rank == 0:
                    fates += [self._further(n, t, index) for n, t in further.items()]
        return ranks, fates

    def _further(self, name: str, tensor: np.ndarray, index: int) -> Fate:
        mp = self.layout.mp
        return Fate(name, index, layer_of(index, self.model), mp, tensor.shape, tensor.dtype.name,
                    None, "without effect: NeoX wants it in the file", tensor.size * mp,
                    0)  # fmt: skip

    def _ranks(
        self, rule: Rule, leaves: Mapping[str, np.ndarray], sizes: Mapping[str, int]
    ) -> list[np.ndarray]:
        mp = self.layout.mp
        if rule.role is Role.SPLIT:
            return [rule.get(leaves, sizes, rank) for rank in range(mp)]
        leaf = rule.parts[0].leaf
        value = leaves[leaf]
        if leaf == "final_norm.bias" and self._own_biases:
            return [(value + own).astype(value.dtype) for own in self._own_biases]
        if self._divides(rule):
            return divided(value, mp)
        return [value] * mp

    def _leaf(self, name: str, layer: int | None) -> np.ndarray:
        model = self.source.model
        if name not in self.source.shapes:  # NeoX's norms always have a bias
            return np.zeros(model.hidden_size, self.dtype)
        leaf = self.source.leaf(name, layer if name.startswith("layers.") else None)
        leaf = leaf.astype(self.dtype, copy=False)
        more = self.model.vocab_size - model.vocab_size
        rows = {"embed.tokens": ((0, more), (0, 0)), "unembed.bias": ((0, more),)}
        rows |= {"unembed.weight": ((0, 0), (0, more))}
        return np.pad(leaf, rows[name]) if more and name in rows else leaf

    def _unused(self, tensors: Tensors) -> Tensors:
        """NeoX with gpt_j_tied has a second norm that it never uses, and wants it in the file."""
        if not self.model.shared_norm:
            return {}
        first = "input_layernorm"
        return {
            name.replace(first, "post_attention_layernorm"): tensor
            for name, tensor in tensors.items()
            if name.startswith(first)
        }

    def _buffers(self, rank: int) -> Tensors:
        a, p = self.model.attention, self.model.positions
        if p.kind == "alibi":
            slopes = np.split(np.asarray(alibi_slopes(a.num_heads), np.float32), self.layout.mp)
            return {"attention.alibi_embed.slopes": slopes[rank]}
        if p.kind == "rotary" and self.layout.old_names:
            width = int(a.head_dim * p.rotary_fraction)
            return {"attention.rotary_emb.inv_freq": frequencies(width, p.rotary_base)}
        return {}


def divided(bias: np.ndarray, ranks: int) -> list[np.ndarray]:
    """One share for each rank, whose sum rounds to the bias: exactly it for a power of two.

    Where equal shares are not enough, the first rank's makes up the difference.
    """
    dtype, whole = bias.dtype, bias.astype(np.float64)
    share = (whole / ranks).astype(dtype)
    rest = whole - (ranks - 1) * share.astype(np.float64)
    with np.errstate(over="ignore"):  # beyond the type's range is another number as well
        short = (share.astype(np.float64) * ranks).astype(dtype) != bias
    first = np.where(short, rest.astype(dtype), share)
    return [first] + [share] * (ranks - 1)


JOINT = ("layernorm", "non_parametric_layernorm")
"""Norms that take their statistics over all heads of a rank."""


def refuse_layout(model: ModelConfig, layout: Layout) -> None:
    mp, a = layout.mp, model.attention
    if mp < 1 or layout.pp < 0:
        raise UserError(f"--mp {mp} --pp {layout.pp}: expected --mp from 1 and --pp from 0")
    drops = model.parallel_residual and model.mlp.gated and not model.mlp.bias
    reasons = {
        "it has a bias on its logits, which NeoX has only from copies of a layernorm's bias": (
            model.logit_bias and (model.tied_embedding or not model.norm.bias)
        ),
        "NeoX drops the attention of a parallel residual with a gated MLP without biases, and "
        "this model has it": drops and not model.attention_dropped,
        "its attention is dropped, which NeoX does only with a gated MLP without biases": (
            model.attention_dropped and not drops
        ),
        f"use_qk_layernorm with {model.norm.kind} would take its statistics over each rank's own "
        "heads: use --mp 1": a.qk_norm and mp > 1 and model.norm.kind in JOINT,
        f"{a.kv_heads} key-value heads do not divide over {mp} ranks": a.kv_heads % mp != 0,
        f"the MLP's width {model.mlp.size} does not divide over {mp} ranks": model.mlp.size % mp,
        f"{model.num_layers} layers are fewer than {layout.pp} stages": (
            model.num_layers < layout.pp
        ),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise UserError(f"NeoX cannot have this model's function: {'; '.join(found)}")
