"""One function cut for k ranks: our leaves become the tensors of NeoX's ranks."""

from dataclasses import replace

import numpy as np

from convert.checkpoint import Checkpoint
from convert.fate import Fate, bit_sum, not_finite
from convert.neox.grid import NeoxGrid, refuse_grid
from convert.neox.join import layer_of, modules_of
from convert.neox.unfold import unfolded
from convert.parts import Leaves, Part
from convert.refit import fit_rows, more_rows
from convert.rules import neox
from convert.rules.rule import Role, Rule, Sizes, sizes_of
from jaxneox.config.schema import ModelConfig
from jaxneox.model.positions import alibi_slopes, frequencies

Tensors = dict[str, np.ndarray]
Module = tuple[int, list[Tensors], list[Fate]]
"""An index in NeoX's Sequential, each rank's tensors of that module, and their account."""


class Split:
    """A model as the tensors of NeoX's ranks.

    Attributes:
        model: the model as NeoX has it, with the vocabulary padded to divide over the ranks.
        warnings: what a user of the files should know.

    Raises:
        UserError: NeoX's ranks cannot have the model's function; the message gives every
            reason.
    """

    def __init__(self, source: Checkpoint, grid: NeoxGrid) -> None:
        refuse_grid(source.model, grid)
        self.grid = grid
        self.warnings: list[str] = []
        self.dtype = np.result_type(*(source.dtype(name) for name in source.shapes))
        # a bias that the model lacks is written as zeros
        attention = replace(source.model.attention, output_bias=True)
        model = replace(source.model, attention=attention, logit_bias=False)
        self.model = self._padded(model)
        self._every_block: Leaves = {}  # parameters that NeoX saves again with every block
        self._own_biases: list[np.ndarray] = []
        if source.model.logit_bias:
            head = self._fitted(source.leaves("head"))
            self._own_biases = unfolded(head["unembed.weight"], head["unembed.bias"], grid.mp)
            self.warnings.append(
                "the ranks' copies of the final norm's bias differ, as those did that this model "
                "came from: tools that merge by averaging will lose it"
            )

    @property
    def nbytes(self) -> int:
        sizes = sizes_of(self.model, self.grid.mp)
        rules = [rule for rules in neox.modules(self.model).values() for rule in rules]
        elements = sum(int(np.prod(rule.shape(sizes))) for rule in rules)
        return elements * self.grid.mp * self.dtype.itemsize

    def cut(self, part: Part, leaves: Leaves) -> list[Module]:
        """Cut a part into its modules. The embedding has to come before the layers."""
        leaves = self._fitted(leaves)
        shared = neox.shared(self.model)
        if part == "embedding":
            names = {leaf for rule in shared for leaf in rule.leaves}
            self._every_block = {name: leaves[name] for name in names}
        every_block = shared if isinstance(part, int) else ()
        return [
            self._module(index, rules + every_block, leaves | self._every_block)
            for index, rules in modules_of(part, self.model)
            if rules != shared
        ]

    def _module(self, index: int, rules: tuple[Rule, ...], leaves: Leaves) -> Module:
        sizes = sizes_of(self.model, self.grid.mp)
        ranks: list[Tensors] = [{} for _ in range(self.grid.mp)]
        fates = []
        for rule in rules:
            shards = self._shards(rule, leaves, sizes)
            fates.append(self._account(rule, index, leaves, shards))
            for tensors, shard in zip(ranks, shards, strict=True):
                tensors[rule.theirs] = shard
        if layer_of(index, self.model) is not None:
            for rank, tensors in enumerate(ranks):
                without_effect = self._unused(tensors) | self._buffers(rank)
                tensors |= without_effect
                if rank == 0:
                    fates += [self._no_effect(n, t, index) for n, t in without_effect.items()]
        return index, ranks, fates

    def _shards(self, rule: Rule, leaves: Leaves, sizes: Sizes) -> list[np.ndarray]:
        """Cut a leaf for each rank. NeoX's norms always have a bias; a missing one is zero."""
        mp = self.grid.mp
        if rule.role is Role.SPLIT:
            return [rule.get(leaves, sizes, rank) for rank in range(mp)]
        value = self._leaf(rule, leaves)
        if rule.parts[0].leaf == "final_norm.bias" and self._own_biases:
            return [(value + own).astype(value.dtype) for own in self._own_biases]
        if self._divides(rule):
            return divided(value, mp)
        return [value] * mp

    def _leaf(self, rule: Rule, leaves: Leaves) -> np.ndarray:
        if rule.role is Role.ROUTER:
            return rule.get(leaves, sizes_of(self.model, self.grid.mp), 0)
        zeros = np.zeros(self.model.hidden_size, self.dtype)
        return leaves.get(rule.parts[0].leaf, zeros)

    def _divides(self, rule: Rule) -> bool:
        return rule.role is Role.BIAS and self.model.parallel_residual

    def _account(self, rule: Rule, index: int, leaves: Leaves, shards: list[np.ndarray]) -> Fate:
        """Account for one tensor of ours as the ranks have it, counted after it was cut."""
        whole = [self._leaf(rule, leaves)]
        if rule.role is Role.SPLIT:
            whole = [leaves[part.leaf] for part in rule.parts]
        mp, elements = len(shards), sum(shard.size for shard in shards)
        common = (rule.theirs, index, layer_of(index, self.model), mp, shards[0].shape,
                  shards[0].dtype.name, " + ".join(part.leaf for part in rule.parts))  # fmt: skip
        bad = sum(map(not_finite, whole))
        if rule.role is Role.SPLIT:
            sizes = sizes_of(self.model, mp)
            ours = [leaves[p.leaf][p.region(sizes, rank)] for p in rule.parts for rank in range(mp)]
            same_bits = sum(map(bit_sum, ours)) == sum(map(bit_sum, shards))
            used = sum(region.size for region in ours)
            return Fate(*common, "split: each rank has a share", elements, used, 0, same_bits,
                        not_finite=bad)  # fmt: skip
        total = np.sum([shard.astype(np.float64) for shard in shards], axis=0)
        if self._divides(rule) and mp > 1:
            changed = int((total.astype(whole[0].dtype) != whole[0]).sum())
            fate = f"divided into {mp} shares, whose sum is it"
            return Fate(*common, fate, elements, elements, changed, not_finite=bad)
        changed = sum(int((shard != whole[0]).sum()) for shard in shards)
        fate = "copied to every rank"
        if changed:
            fate = "a copy of its own for each rank: what folding had put into the logits' bias"
        return Fate(*common, fate, elements, elements, changed, not_finite=bad)

    def _no_effect(self, name: str, tensor: np.ndarray, index: int) -> Fate:
        mp = self.grid.mp
        return Fate(name, index, layer_of(index, self.model), mp, tensor.shape, tensor.dtype.name,
                    None, "without effect: NeoX wants it in the file", tensor.size * mp,
                    0)  # fmt: skip

    def _padded(self, model: ModelConfig) -> ModelConfig:
        """Pad the vocabulary to divide over the ranks, unless it already does."""
        rows = -(-model.vocab_size // self.grid.mp) * self.grid.mp
        if rows != model.vocab_size:
            self.warnings.append(more_rows(model.vocab_size, rows, f"for {self.grid.mp} ranks"))
        return replace(model, vocab_size=rows)

    def _fitted(self, leaves: Leaves) -> Leaves:
        """Cast the leaves to the one type, and pad the vocabulary."""
        rows = self.model.vocab_size
        return {
            name: fit_rows(name, leaf.astype(self.dtype, copy=False), rows)
            for name, leaf in leaves.items()
        }

    def _unused(self, tensors: Tensors) -> Tensors:
        """Return the second norm that NeoX wants in the file for gpt_j_tied and never uses."""
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
            slopes = np.split(np.asarray(alibi_slopes(a.num_heads), np.float32), self.grid.mp)
            return {"attention.alibi_embed.slopes": slopes[rank]}
        if p.kind == "rotary" and self.grid.old_names:
            width = int(a.head_dim * p.rotary_fraction)
            return {"attention.rotary_emb.inv_freq": frequencies(width, p.rotary_base)}
        return {}


def divided(bias: np.ndarray, ranks: int) -> list[np.ndarray]:
    """Divide a bias into one share for each rank whose sum rounds to it.

    For a power of two ranks, the shares are equal and their sum is exact. If equal shares do not
    suffice, the first rank's makes up the difference.
    """
    dtype, whole = bias.dtype, bias.astype(np.float64)
    share = (whole / ranks).astype(dtype)
    rest = whole - (ranks - 1) * share.astype(np.float64)
    with np.errstate(over="ignore"):  # beyond the type's range is another number as well
        short = (share.astype(np.float64) * ranks).astype(dtype) != bias
    first = np.where(short, rest.astype(dtype), share)
    return [first] + [share] * (ranks - 1)
