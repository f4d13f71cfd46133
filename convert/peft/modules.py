"""The modules of a family of transformers that an adapter changes, and where they lie in ours.

The rule of a weight says how its numbers are laid out there and here. What LoRA's matrices need of
it, the order of the weight's inputs and that of its outputs, is found by sending numbers of inputs
and of outputs through the rule in place of weights: there is no second table.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from convert.hf.family import Family
from convert.readers.adapter import read_axes
from convert.rules.rule import Rule, Sizes, sizes_of
from jaxneox.config.schema import ModelConfig

WEIGHT = ".weight"
HEADS = {"G": 1, "R": 3}
"""The least sizes of the axis with a group's queries, key and value."""


@dataclass(frozen=True, eq=False)
class AdaptedModule:
    """A module of transformers whose weight is one of our matrices, or some of its columns.

    Attributes:
        name: the module's, with `{}` for the layer.
        matrix: ours, such as `layers.mlp.up`.
        inputs: for each input there, which of ours it is, counted over the axes that ours reads.
        outputs: likewise, over those that ours writes.
        transposed: whether the weight is [in, out] there, as GPT-2's `Conv1D` has it.
        rule: of the weight.
        sizes: of the rule's letters.
    """

    name: str
    matrix: str
    inputs: np.ndarray
    outputs: np.ndarray
    transposed: bool
    rule: Rule
    sizes: Sizes

    def in_layer(self, layer: int) -> str:
        return self.name.format(layer)

    def taken(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return PEFT's lora_A [rank, in] and lora_B [out, rank] of our A and B of one layer."""
        rank = a.shape[-1]
        return a.reshape(-1, rank)[self.inputs].T, b.reshape(rank, -1)[:, self.outputs].T

    def put(
        self,
        lora_a: np.ndarray,
        lora_b: np.ndarray,
        a: np.ndarray,
        b: np.ndarray,
        start: int,
    ) -> None:
        """Write PEFT's into our A [reads…, rank] and B [rank, writes…], from a rank on."""
        rank, ours = len(lora_a), a.shape[-1]
        part = slice(start, start + rank)
        a.reshape(-1, ours)[self.inputs, part] = lora_a.T
        b.reshape(ours, -1)[part, self.outputs] = lora_b.T

    def weight(self, ours: np.ndarray) -> np.ndarray:
        """Lay out one layer of our matrix, or of what is added to it, as the weight there."""
        return self.rule.get({self.matrix: ours}, self.sizes, rank=0)


def modules_of(family: Family, model: ModelConfig) -> tuple[AdaptedModule, ...]:
    """Return the modules of a layer whose weights are matrices that may have others beside them."""
    reads, sizes = read_axes(model), sizes_of(model)
    return tuple(
        _module(rule, reads[rule.parts[0].leaf], sizes)
        for rule in family.rules(model)
        if rule.parts[0].leaf in reads
    )


def _module(rule: Rule, reads: int, sizes: Sizes) -> AdaptedModule:
    (part,) = rule.parts
    inputs, outputs = part.axes[:reads], part.axes[reads:]
    smallest = dict.fromkeys(sizes, 2) | {"O": 1, "G": 2, "R": 4}
    along_rows = _numbers(rule, reads, smallest, of_inputs=True)[0]
    transposed = bool((along_rows == along_rows[0]).all())
    read = _numbers(rule, reads, _without(outputs, sizes), of_inputs=True)
    written = _numbers(rule, reads, _without(inputs, sizes), of_inputs=False)
    return AdaptedModule(
        name=rule.theirs.removesuffix(WEIGHT),
        matrix=part.leaf,
        inputs=read[:, 0] if transposed else read[0],
        outputs=written[0] if transposed else written[:, 0],
        transposed=transposed,
        rule=rule,
        sizes=sizes,
    )


def _numbers(rule: Rule, reads: int, sizes: Sizes, *, of_inputs: bool) -> np.ndarray:
    """Return the weight there with each of its numbers replaced by that of our input or output."""
    (part,) = rule.parts
    whole = part.whole(sizes)
    own = whole[:reads] if of_inputs else whole[reads:]
    count = np.arange(prod(own)).reshape(own + (1,) * (len(whole) - reads) * of_inputs)
    ours = np.ascontiguousarray(np.broadcast_to(count, whole))
    return rule.get({part.leaf: ours}, sizes, rank=0)


def _without(axes: list[str], sizes: Sizes) -> dict[str, int]:
    """Make axes as short as they can be, so that a weight becomes a vector of the others."""
    short = dict.fromkeys(axes, 1)
    return {**sizes, **short} | (HEADS if "K" in axes else {})


def shortest_names(
    chosen: list[AdaptedModule], all_of_them: tuple[AdaptedModule, ...]
) -> list[str]:
    """Return the ends of the modules' names that name them and no others, as PEFT matches them."""
    others = [module.name for module in all_of_them if module not in chosen]
    return sorted({_end_of(module.name, others) for module in chosen})


def _end_of(name: str, others: list[str]) -> str:
    words = name.split(".")
    for count in range(1, len(words)):
        end = ".".join(words[-count:])
        if not any(other.endswith(f".{end}") for other in others):
            return end
    return name
