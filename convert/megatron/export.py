"""A checkpoint of ours as the tensors of Megatron-LM's ranks and stages."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from convert.casting import cast, chosen
from convert.fate import Fate, bit_sum
from convert.megatron.agreement import share
from convert.proof.sides import Refitted
from convert.readers.jaxneox import JaxneoxCheckpoint
from convert.rules.megatron import cut, rules
from convert.rules.rule import Role, Rule, sizes_of
from jaxneox.config.schema import ModelConfig
from jaxneox.data.tokenizer import SentencePieceTokenizer
from jaxneox.errors import UserError

ACTIVATIONS = (("gelu", False), ("gelu_tanh", False), ("silu", True))
"""And whether gated: what Megatron-LM's command line can ask for."""


class Layout(NamedTuple):
    tp: int
    pp: int
    chunks: int  # virtual stages of each stage
    format: str  # torch, torch_dist

    def __str__(self) -> str:
        virtual = f", {self.chunks} virtual stages each" if self.chunks > 1 else ""
        return (
            f"tensor-model-parallel-size {self.tp}, pipeline-model-parallel-size {self.pp}"
            f"{virtual}, ckpt-format {self.format}"
        )


class Export:
    """Raises UserError, with every reason, where Megatron-LM cannot have the model's function.

    Attributes:
        model: as it is written; with biases of zeros, and rows of the vocabulary, that it needs.
        notes: what a user of the files should know.
    """

    def __init__(self, source: JaxneoxCheckpoint, layout: Layout, dtype: str = "keep") -> None:
        self.source, self.layout, self._asked = source, layout, dtype
        refuse_layout(source.model, layout)
        self.model = _to_write(source.model, layout.tp)
        self._fitted = Refitted(source, self.model)
        self.notes = [*self._notes()]

    @cached_property
    def dtype(self) -> np.dtype:
        """One type for all, in which each leaf is exact, or the one that was asked for."""
        own = np.result_type(*(self.source.dtype(name) for name in self.source.shapes))
        return chosen(self._asked, own)

    @property
    def nbytes(self) -> int:
        """Of what is written, and of what waits on the disk until a rank's file is."""
        sizes, elements = sizes_of(self.model), 0
        for inside, times in ((False, 1), (True, self.model.num_layers)):
            shapes = [rule.shape(sizes) for rule in rules(self.model, inside=inside)]
            elements += times * sum(int(np.prod(shape)) for shape in shapes)
        return 2 * elements * self.dtype.itemsize

    def layers(self) -> Iterator[tuple[int | None, dict[str, np.ndarray], list[Fate]]]:
        """Whole tensors by megatron.core's names with their account, a layer at a time."""
        sizes = sizes_of(self.model)
        for layer in (None, *range(self.model.num_layers)):
            tensors, fates = {}, []
            for rule in rules(self.model, inside=layer is not None):
                stored = {leaf: self._fitted.leaf(leaf, layer) for leaf in rule.leaves}
                leaves = {leaf: cast(leaf, value, self.dtype) for leaf, value in stored.items()}
                tensors[rule.theirs] = rule.get(leaves, sizes, rank=0)
                fates.append(self._account(rule, layer, stored, tensors[rule.theirs]))
            yield layer, tensors, fates

    def ranks(self, layer: int | None, tensors: Mapping[str, np.ndarray]) -> list[dict]:
        """What each tensor-parallel rank has of them."""
        found: list[dict[str, np.ndarray]] = [{} for _ in range(self.layout.tp)]
        for rule in rules(self.model, inside=layer is not None):
            whole = tensors[rule.theirs]
            split = rule.role is Role.SPLIT
            shards = cut(rule, whole, self.layout.tp) if split else [whole] * self.layout.tp
            for rank, shard in zip(found, shards, strict=True):
                rank[rule.theirs] = shard
        return found

    def _account(
        self, rule: Rule, layer: int | None, stored: Mapping[str, np.ndarray], whole: np.ndarray
    ) -> Fate:
        ours = [stored[part.leaf] for part in rule.parts]
        same_type = all(leaf.dtype == whole.dtype for leaf in ours)
        back = rule.get({n: v.astype(np.float64) for n, v in stored.items()},
                        sizes_of(self.model), rank=0)  # fmt: skip
        split = rule.role is Role.SPLIT
        said = "split: each rank has a share" if split else "copied to every rank"
        if not any(leaf in self.source.shapes for leaf in rule.leaves):
            said = "zeros: Megatron-LM has all biases or none"
        return Fate(
            rule.theirs,
            None,
            layer,
            1,
            whole.shape,
            whole.dtype.name,
            " + ".join(part.leaf for part in rule.parts),
            said if same_type else f"{said}, rounded to {whole.dtype.name}",
            whole.size,
            sum(leaf.size for leaf in ours),
            int((back != whole.astype(np.float64)).sum()),
            bit_sum(whole) == sum(map(bit_sum, ours)) if same_type else None,
        )

    def _notes(self) -> Iterator[str]:
        tokenizer = self.source.tokenizer
        if isinstance(tokenizer, SentencePieceTokenizer) and tokenizer.added:
            yield (
                f"Llama2Tokenizer reads the tokenizer's {len(tokenizer.added)} added tokens as "
                "ordinary text: a sentencepiece model has no place for them"
            )
        more = self.model.vocab_size - self.source.model.vocab_size
        if more:
            yield (
                f"{more} rows of zeros were added to the vocabulary's "
                f"{self.source.model.vocab_size}, for {self.layout.tp} ranks: their logits are 0, "
                "which a softmax over all rows sees"
            )
        before = self.source.model
        if (self.model.attention.bias, self.model.mlp.bias, self.model.norm.bias) != (
            before.attention.bias,
            before.mlp.bias,
            before.norm.bias,
        ):
            yield "biases that Megatron-LM needs and the model has not are written as zeros"


def _to_write(model: ModelConfig, tp: int) -> ModelConfig:
    """Megatron has all biases or none, layer norms always have one, and gelu's tanh form is fused
    with a bias."""
    bias = model.attention.bias or model.mlp.bias or model.mlp.activation == "gelu_tanh"
    return replace(
        model,
        vocab_size=-(-model.vocab_size // tp) * tp,
        attention=replace(model.attention, bias=bias),
        mlp=replace(model.mlp, bias=bias),
        norm=replace(model.norm, bias=model.norm.kind == "layernorm"),
    )


def refuse_layout(model: ModelConfig, layout: Layout) -> None:
    """Raises UserError, with every reason, where Megatron-LM cannot have the model's function."""
    tp, pp, chunks, _ = layout
    if min(tp, pp, chunks) < 1:
        raise UserError(f"--tp {tp} --pp {pp} --virtual {chunks}: expected numbers from 1")
    if model.parallel_residual:
        raise UserError(
            "Megatron-LM has no parallel residual (gpt-j-residual), which this model has: "
            "jaxneox convert to-hf and to-neox write it as it is"
        )
    a, m, p = model.attention, model.mlp, model.positions
    reasons: dict[str, Any] = {
        "its logits have a bias": model.logit_bias,
        f"its norms are {model.norm.kind}": model.norm.kind not in ("layernorm", "rmsnorm"),
        f"its positions are {p.kind}": p.kind not in ("rotary", "learned", "none"),
        f"its learned positions begin at row {p.offset} (opt_pos_emb_offset)": (
            p.kind == "learned" and p.offset
        ),
        "queries and keys are normalised (use_qk_layernorm), for all heads apart": a.qk_norm,
        f"a token sees {a.window} before it (sliding_window_width), there all": (
            a.window is not None
        ),
        f"its MLP is {'gated' if m.gated else 'not gated'} with {m.activation}; Megatron-LM has "
        "swiglu, and gelu that is not gated": (m.activation, m.gated) not in ACTIVATIONS,
        f"{model.num_layers} layers do not divide over {pp * chunks} stages": (
            model.num_layers % (pp * chunks)
        ),
        "virtual stages need more than one stage": chunks > 1 and pp == 1,
        f"{a.num_heads} heads do not divide over {tp} ranks": a.num_heads % tp,
        f"{a.kv_heads} key-value heads do not divide over {tp} ranks, nor the ranks over them": (
            a.kv_heads % tp and tp % a.kv_heads
        ),
    }
    written = _to_write(model, tp)
    reasons |= {
        f"{rule.theirs} does not divide over {tp} ranks": (
            share(rule, rule.shape(sizes_of(written)), tp) is None
        )
        for rule in rules(written, inside=True)
        if rule.theirs.endswith(".weight")
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise UserError(f"Megatron-LM cannot have this model's function: {'; '.join(found)}")
