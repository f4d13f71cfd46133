"""A NeoX checkpoint as one model: the parameters of a merge, and the function of its ranks."""

from collections.abc import Callable, Mapping
from functools import cached_property, partial

import numpy as np
from numpy.typing import DTypeLike

from convert.checkpoint import Checkpoint, Fidelity, UserProgram
from convert.neox.join import leaf_shapes, merged_leaves
from convert.neox.merge import make_plan
from convert.neox.plan import MergeChoices, MergePlan
from convert.oracle import Forward, NeoxForward
from convert.oracle.neox import Ranks
from convert.parts import STACKED, Leaves, Part, layers_with, names_in
from convert.readers.neox import NeoxCheckpoint
from jaxneox.model.positions import alibi_slopes

HISTORIC = {
    "zeroth partition": MergeChoices("first", "once"),
    "averaged": MergeChoices("mean", "once"),
    "NeoX's converter": MergeChoices("mean", "sum"),
}
"""Merges that NeoX has had; one of them changed LAMBADA's perplexity from 4.84 to 5.40."""


class Merged(Checkpoint):
    """The model that a merge of NeoX's ranks makes, computed when it is read and never written.

    Its function is that of the merged parameters.
    """

    def __init__(self, source: NeoxCheckpoint, plan: MergePlan) -> None:
        self.source, self.plan, self.model = source, plan, plan.model
        self.shapes = leaf_shapes(plan)
        self._part: tuple[Part | None, Leaves] = (None, {})

    def dtype(self, name: str) -> np.dtype:
        return self.plan.dtypes[name]

    def leaves(self, part: Part) -> Leaves:
        """Read the parameters of a part, and keep the latest part, which is often read again."""
        if self._part[0] != part:
            self._part = (part, merged_leaves(self.source, self.plan, part))
        return self._part[1]

    def leaf(self, name: str, layer: int | None = None) -> np.ndarray:
        if name.startswith(STACKED) and layer is None:
            return np.stack([self.leaf(name, i) for i in layers_with(name, self.model)])
        outside: list[Part] = ["embedding", "head"]
        parts = outside if layer is None else [layer]
        return next(self.leaves(part)[name] for part in parts if names_in(part, [name], self.model))


class NeoxModel(Merged):
    """A NeoX checkpoint: the parameters of a merge, and the function of its ranks side by side."""

    @property
    def forward(self) -> Forward:
        return self._ranks_forward()

    @property
    def fidelity(self) -> Fidelity:
        plan = self.plan
        return Fidelity(frozenset(plan.rounding), plan.exact, plan.mergeable, bool(plan.folds))

    @cached_property
    def alternatives(self) -> Mapping[str, Forward]:
        """The effect of NeoX's half precision on positions, by title."""
        source, functions = self.source, dict[str, Forward]()
        if source.half_angles:
            title = f"the source, its angles in {source.dtype.name} as in 2023"
            functions[title] = self._ranks_forward(source.dtype)
        if source.half_slopes:
            title = f"the source, its alibi slopes in {source.dtype.name}"
            functions[title] = self._ranks_forward(rounded_slopes=True)
        return functions

    @property
    def older_merges(self) -> Mapping[str, Callable[[], Forward]]:
        """NeoX's own merges, where there are ranks to merge."""

        def merged(choices: MergeChoices) -> Forward:
            return Merged(self.source, make_plan(self.source, choices)).forward

        ranks = self.source.mp
        return {n: partial(merged, choices) for n, choices in HISTORIC.items() if ranks > 1}

    def program(self) -> UserProgram | str:
        return "not run: GPT-NeoX itself is not here"

    def _ranks_forward(
        self, angle_dtype: DTypeLike = np.float32, *, rounded_slopes: bool = False
    ) -> Forward:
        source = self.source
        exact = source.half_slopes and not rounded_slopes
        ranks = with_exact_slopes(source) if exact else source.ranks
        return NeoxForward(source.model, forgetting(source, ranks), angle_dtype)


def forgetting(source: NeoxCheckpoint, ranks: Ranks) -> Ranks:
    """Return a reader of the ranks' tensors that gives back a module's memory at the next one."""
    latest: list[int] = []

    def read(index: int) -> list[Mapping[str, np.ndarray]]:
        for other in latest:
            if other != index:
                source.forget(other)
        latest[:] = [index]
        return ranks(index)

    return read


def with_exact_slopes(source: NeoxCheckpoint) -> Ranks:
    """Return a reader of the ranks' tensors, with alibi's slopes as they were before rounding."""
    slopes = np.asarray(alibi_slopes(source.model.attention.num_heads), np.float32)
    name = "attention.alibi_embed.slopes"

    def ranks(index: int) -> list[Mapping[str, np.ndarray]]:
        tensors = source.ranks(index)
        return [
            {**rank, name: own} if name in rank else rank
            for rank, own in zip(tensors, np.split(slopes, source.mp), strict=True)
        ]

    return ranks


def choices_by(conversion: Mapping[str, object]) -> MergeChoices:
    """Return the merge that a converted checkpoint records; by default the exact one."""
    named = {k: v for k, v in conversion.items() if k in ("norms", "biases", "dtype", "drift")}
    return MergeChoices(**named)  # type: ignore[arg-type]
