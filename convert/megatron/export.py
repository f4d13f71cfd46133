"""A model as the tensors of Megatron-LM's ranks and stages."""

from collections.abc import Iterator, Mapping

import numpy as np

from convert.casting import cast, chosen
from convert.checkpoint import Checkpoint
from convert.fate import Fate, bit_sum, not_finite
from convert.megatron.grid import MegatronGrid, model_to_write, refuse_grid
from convert.parts import Leaves, Part, layer_of
from convert.refit import fit_rows, more_rows
from convert.rules.megatron import cut, rules, rules_in
from convert.rules.rule import Role, Rule, sizes_of
from jaxneox.config.schema import ModelConfig
from jaxneox.data.tokenizer import SentencePieceTokenizer

Tensors = dict[str, np.ndarray]


class Export:
    """A model in the form that Megatron-LM can have.

    Attributes:
        model: the model as it is written, with the zero biases and vocabulary rows that it
            needs.
        dtype: the one type for all weights: the type asked for, or one that holds each exactly.
        notes: what a user of the files should know.

    Raises:
        UserError: the model is not written for Megatron-LM; the message gives all reasons.
    """

    def __init__(self, source: Checkpoint, grid: MegatronGrid, dtype: str = "keep") -> None:
        self.source, self.grid = source, grid
        refuse_grid(source.model, grid)
        self.model = model_to_write(source.model, grid.tp)
        exact = np.result_type(*(source.dtype(name) for name in source.shapes))
        self.dtype = chosen(dtype, exact)
        self.notes = [*self._notes()]

    @property
    def nbytes(self) -> int:
        """The bytes of what is written, and of what waits on the disk until a rank's file is."""
        sizes, elements = sizes_of(self.model), 0
        for inside, times in ((False, 1), (True, self.model.num_layers)):
            shapes = [rule.shape(sizes) for rule in rules(self.model, inside=inside)]
            elements += times * sum(int(np.prod(shape)) for shape in shapes)
        return 2 * elements * self.dtype.itemsize

    def tensors(self, part: Part, leaves: Leaves) -> tuple[Tensors, list[Fate]]:
        """Return whole tensors by megatron.core's names, with their account."""
        sizes, wholes, fates = sizes_of(self.model), Tensors(), []
        for rule in rules_in(part, self.model):
            stored = {name: self._fitted(rule, name, leaves) for name in rule.leaves}
            rounded = {name: cast(name, value, self.dtype) for name, value in stored.items()}
            wholes[rule.theirs] = rule.get(rounded, sizes, rank=0)
            fates.append(self._account(rule, layer_of(part), stored, wholes[rule.theirs]))
        return wholes, fates

    def ranks(self, part: Part, tensors: Tensors) -> list[Tensors]:
        """Cut whole tensors into those of each tensor-parallel rank."""
        per_rank: list[Tensors] = [{} for _ in range(self.grid.tp)]
        for rule in rules_in(part, self.model):
            whole = tensors[rule.theirs]
            split = rule.role is Role.SPLIT
            shards = cut(rule, whole, self.grid.tp) if split else [whole] * self.grid.tp
            for rank, shard in zip(per_rank, shards, strict=True):
                rank[rule.theirs] = shard
        return per_rank

    def _fitted(self, rule: Rule, name: str, leaves: Leaves) -> np.ndarray:
        """Pad the vocabulary as Megatron needs it; a bias that the model lacks is zero."""
        if name in leaves:
            return fit_rows(name, leaves[name], self.model.vocab_size)
        (shape,) = {p.whole(sizes_of(self.model)) for p in rule.parts if p.leaf == name}
        return np.zeros(shape, self.source.dtype("embed.tokens"))

    def _account(
        self, rule: Rule, layer: int | None, stored: Mapping[str, np.ndarray], whole: np.ndarray
    ) -> Fate:
        ours = [stored[part.leaf] for part in rule.parts]
        same_type = all(leaf.dtype == whole.dtype for leaf in ours)
        back = rule.get({n: v.astype(np.float64) for n, v in stored.items()},
                        sizes_of(self.model), rank=0)  # fmt: skip
        split = rule.role is Role.SPLIT
        fate = "split: each rank has a share" if split else "copied to every rank"
        if not any(leaf in self.source.shapes for leaf in rule.leaves):
            fate = "zeros: Megatron-LM has all biases or none"
        return Fate(
            rule.theirs,
            None,
            layer,
            1,
            whole.shape,
            whole.dtype.name,
            " + ".join(part.leaf for part in rule.parts),
            fate if same_type else f"{fate}, rounded to {whole.dtype.name}",
            whole.size,
            sum(leaf.size for leaf in ours),
            int((back != whole.astype(np.float64)).sum()),
            bit_sum(whole) == sum(map(bit_sum, ours)) if same_type else None,
            not_finite=sum(map(not_finite, ours)),
        )

    def _notes(self) -> Iterator[str]:
        tokenizer = self.source.tokenizer
        if isinstance(tokenizer, SentencePieceTokenizer) and tokenizer.added:
            yield (
                f"Llama2Tokenizer reads the tokenizer's {len(tokenizer.added)} added tokens as "
                "ordinary text: a sentencepiece model has no place for them"
            )
        rows, needed = self.source.model.vocab_size, self.model.vocab_size
        if needed != rows:
            yield more_rows(rows, needed, f"for {self.grid.tp} ranks")
        if biases_of(self.model) != biases_of(self.source.model):
            yield "biases that Megatron-LM needs and the model has not are written as zeros"


def biases_of(model: ModelConfig) -> tuple[bool, ...]:
    """Tell which of a model's parts have a bias."""
    attention = model.attention
    return (attention.bias, attention.biased_output, model.mlp.bias, model.norm.bias)
