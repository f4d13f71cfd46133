"""The two sides of a proof: checkpoints of any kind, as parameters of ours and as functions."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import DTypeLike

from convert.apply import (
    STACKED,
    layer_of,
    merge_module,
    module_leaves,
    module_rules,
    module_shapes,
)
from convert.merge import make_plan
from convert.oracle import Forward, JaxneoxForward, MegatronForward, NeoxForward
from convert.oracle.megatron import Layout
from convert.plan import Choices, Plan
from convert.readers.megatron import MegatronCheckpoint
from convert.readers.neox import NeoxCheckpoint
from convert.rules import neox
from convert.rules.rule import sizes_of
from jaxneox.config.schema import ModelConfig
from jaxneox.model.positions import alibi_slopes

Leaves = Mapping[str, np.ndarray]


NORM_BIASES = ("norm.bias", "norm1.bias", "norm2.bias")


class Direct(Protocol):
    """A checkpoint whose tensors are our parameters one by one: not NeoX's."""

    @property
    def model(self) -> ModelConfig: ...

    def leaf(self, name: str, layer: int | None = None) -> np.ndarray: ...

    def dtype(self, leaf: str) -> np.dtype: ...


class Side(Protocol):
    """`forward` is its function in float64; `leaves` its parameters by Sequential index."""

    title: str
    model: ModelConfig
    forward: Forward
    ranks: int  # residual streams

    def leaves(self, index: int) -> Leaves: ...

    def dtype(self, leaf: str) -> np.dtype: ...


class DirectSide:
    ranks: int = 1

    def __init__(self, title: str, source: Direct) -> None:
        self.title, self.source, self.model = title, source, source.model
        self.forward: Forward = JaxneoxForward(self.model, source.leaf)

    def leaves(self, index: int) -> Leaves:
        layer = layer_of(index, self.model)
        return {
            name: self.source.leaf(name, layer if name.startswith(STACKED) else None)
            for name in module_leaves(self.model, index) & leaves_of(self.model).keys()
        }

    def dtype(self, leaf: str) -> np.dtype:
        return self.source.dtype(leaf)


class MegatronSide(DirectSide):
    """Its parameters are ours one by one, its function that of its own ranks, side by side."""

    def __init__(self, title: str, source: MegatronCheckpoint) -> None:
        super().__init__(title, source)
        layout = Layout(source.shards.version, source.zero_centered, source.reading.interleaved)
        self.forward = MegatronForward(self.model, source.ranks, layout)
        self.ranks = source.tp


class Refitted:
    """A checkpoint as another program has to have it, with the same function.

    The vocabulary's rows may be fewer, or more, of zeros; and what biases the other has and the
    checkpoint has not are zeros.
    """

    AXIS: ClassVar = {"embed.tokens": 0, "unembed.weight": 1, "unembed.bias": 0}

    def __init__(self, source: Direct, model: ModelConfig) -> None:
        self._source, self.model = source, refitted(source.model, model)
        here, there = leaves_of(self.model), leaves_of(source.model)
        self._zeros = {name: shape for name, shape in here.items() if name not in there}

    def leaf(self, name: str, layer: int | None = None) -> np.ndarray:
        if name in self._zeros:
            return np.zeros(self._zeros[name], self.dtype(name))
        leaf = self._source.leaf(name, layer)
        if name not in self.AXIS:
            return leaf
        axis, rows = self.AXIS[name], self.model.vocab_size
        kept = leaf[(slice(None),) * axis + (slice(rows),)]
        more = [(0, rows - kept.shape[i] if i == axis else 0) for i in range(kept.ndim)]
        return np.pad(kept, more) if kept.shape != leaf.shape or any(map(sum, more)) else leaf

    def dtype(self, leaf: str) -> np.dtype:
        return self._source.dtype("embed.tokens" if leaf in self._zeros else leaf)


def refitted(model: ModelConfig, other: ModelConfig) -> ModelConfig:
    """`model` with the vocabulary's rows of `other` and with all biases that it has."""
    return replace(
        model,
        vocab_size=other.vocab_size,
        attention=replace(model.attention, bias=model.attention.bias or other.attention.bias),
        mlp=replace(model.mlp, bias=model.mlp.bias or other.mlp.bias),
        norm=replace(model.norm, bias=model.norm.bias or other.norm.bias),
    )


def leaves_of(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter; those of layers without the axis of layers.

    NeoX's rules count a bias of every layer norm; models of ours may have none.
    """
    return {
        name: shape
        for index in neox.modules(model)
        for name, shape in module_shapes(module_rules(model, index), sizes_of(model)).items()
        if model.norm.bias or not name.endswith(NORM_BIASES)
    }


class MergedSide:
    """What merging makes of a NeoX checkpoint, computed when it is asked for and written nowhere.

    Its function is that of the merged parameters.
    """

    ranks = 1

    def __init__(self, title: str, source: NeoxCheckpoint, plan: Plan) -> None:
        self.title, self.source, self.plan, self.model = title, source, plan, plan.model
        self.forward: Forward = JaxneoxForward(self.model, self._leaf)
        self._module: tuple[int, Leaves] = (-1, {})

    def leaves(self, index: int) -> Leaves:
        if self._module[0] != index:
            self._module = (index, merge_module(self.source, self.plan, index)[0])
            self.source.forget(index)
        return self._module[1]

    def dtype(self, leaf: str) -> np.dtype:
        return self.plan.dtypes[leaf]

    def _leaf(self, name: str, layer: int | None = None) -> np.ndarray:
        for index in self.plan.rules:
            if name in module_leaves(self.model, index) and layer in (
                None,
                layer_of(index, self.model),
            ):
                return self.leaves(index)[name]
        raise KeyError(name)


class RanksSide(MergedSide):
    """The same parameters, but the function of the checkpoint's own ranks, side by side."""

    def __init__(
        self,
        title: str,
        source: NeoxCheckpoint,
        plan: Plan,
        angle_dtype: DTypeLike = np.float32,
        *,
        rounded: bool = False,
    ) -> None:
        super().__init__(title, source, plan)
        ranks = with_exact_slopes(source) if source.half_slopes and not rounded else source.ranks
        self.forward = NeoxForward(source.model, ranks, angle_dtype)
        self.ranks = source.mp


def with_exact_slopes(source: NeoxCheckpoint) -> Callable[[int], list[Mapping[str, np.ndarray]]]:
    """Its ranks' tensors, but alibi's slopes as they were before they were rounded."""
    slopes = np.asarray(alibi_slopes(source.model.attention.num_heads), np.float32)
    name = "attention.alibi_embed.slopes"

    def ranks(index: int) -> list[Mapping[str, np.ndarray]]:
        found = source.ranks(index)
        return [
            {**rank, name: own} if name in rank else rank
            for rank, own in zip(found, np.split(slopes, source.mp), strict=True)
        ]

    return ranks


class UnsharedSide:
    """A side whose one norm for both branches (gpt_j_tied) is counted twice: the same function."""

    def __init__(self, side: Side) -> None:
        self._side, self.title, self.ranks = side, side.title, side.ranks
        self.model, self.forward = replace(side.model, shared_norm=False), side.forward

    def leaves(self, index: int) -> Leaves:
        leaves = self._side.leaves(index)
        twice = {n.replace(".norm1.", ".norm2."): leaf for n, leaf in leaves.items()}
        return {**twice, **leaves}

    def dtype(self, leaf: str) -> np.dtype:
        return self._side.dtype(leaf.replace(".norm2.", ".norm1."))


HISTORIC = {
    "zeroth partition": Choices("first", "once"),
    "averaged": Choices("mean", "once"),
    "NeoX's converter": Choices("mean", "sum"),
}
"""Merges that NeoX has had: one of them made LAMBADA perplexity 5.40 of 4.84."""


def historic(source: NeoxCheckpoint) -> list[MergedSide]:
    return [
        MergedSide(title, source, make_plan(source, choices)) for title, choices in HISTORIC.items()
    ]
