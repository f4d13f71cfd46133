"""A checkpoint of ours as it is written for Hugging Face."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from convert.casting import cast, chosen
from convert.hf.choice import choose
from convert.hf.family import Family
from convert.readers.jaxneox import JaxneoxCheckpoint
from convert.rules.rule import Rule, sizes_of
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError

COPIED = {"layers.norm2.": "layers.norm1."}
"""By --copy-shared-norm: what is written, and what it is written from."""

VOCABULARY_AXIS = {"embed.tokens": 0, "unembed.weight": 1}


@dataclass(frozen=True)
class Export:
    """The checkpoint as it will be written: `leaf` with the norms copied and the rows trimmed."""

    source: JaxneoxCheckpoint
    model: ModelConfig
    dtype_asked: str = "keep"

    @cached_property
    def family(self) -> Family:
        return choose(self.model)

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        return self.family.rules(self.model)

    @property
    def tensors(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        sizes = sizes_of(self.model)
        return {
            name: (rule.shape(sizes), self.dtype(rule.parts[0].leaf))
            for name, rule, _ in self.order
        }

    @property
    def order(self) -> Iterator[tuple[str, Rule, int | None]]:
        """Every tensor with its layer: the embedding, the layers in turn, what comes after."""
        stacked = [rule for rule in self.rules if "{}" in rule.theirs]
        first = self.rules.index(stacked[0])
        outside = [rule for rule in self.rules if rule not in stacked]
        yield from ((rule.theirs, rule, None) for rule in outside[:first])
        for layer in range(self.model.num_layers):
            yield from ((rule.theirs.format(layer), rule, layer) for rule in stacked)
        yield from ((rule.theirs, rule, None) for rule in outside[first:])

    def dtype(self, leaf: str) -> np.dtype:
        return chosen(self.dtype_asked, self.source.dtype(self._origin(leaf)))

    def leaf(self, name: str, layer: int | None = None) -> np.ndarray:
        return cast(name, self.stored(name, layer), self.dtype(name))

    def stored(self, name: str, layer: int | None = None) -> np.ndarray:
        """`leaf` before it is rounded to the type that is written."""
        value = self.source.leaf(self._origin(name), layer)
        if name in VOCABULARY_AXIS:
            before = (slice(None),) * VOCABULARY_AXIS[name]
            value = value[(*before, slice(self.model.vocab_size))]
        return value

    def check(self) -> None:
        """Raises UserError where a parameter of the source would be left behind."""
        taken = {self._origin(leaf) for rule in self.rules for leaf in rule.leaves}
        if taken != set(self.source.shapes):
            names = ", ".join(sorted(taken ^ set(self.source.shapes)))
            raise UserError(f"{self.family.architecture} has no place for {names}")

    def _origin(self, leaf: str) -> str:
        for written, origin in COPIED.items():
            if leaf not in self.source.shapes and leaf.startswith(written):
                return origin + leaf.removeprefix(written)
        return leaf
