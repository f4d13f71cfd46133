"""The plan of a merge: everything that is decided before a number is moved."""
# D hidden, R ranks

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from convert.fate import Drift
from convert.rules import neox
from convert.rules.rule import Rule, Sizes, sizes_of
from jaxneox.config.schema import ModelConfig

Norms = Literal["fold", "mean", "first"]
Biases = Literal["auto", "sum", "once"]
Dtype = Literal["keep", "float32", "bfloat16", "float16"]
Drifted = Literal["refuse", "rank0"]
Loss = Literal["none", "asked", "unavoidable"]


@dataclass(frozen=True)
class MergeChoices:
    """The choices by which copies are merged; NeoX's own are `mean` or `first`, with `once`."""

    norms: Norms = "fold"
    biases: Biases = "auto"
    dtype: Dtype = "keep"
    drift: Drifted = "refuse"  # of ranks whose experts no single model has


class Fold(NamedTuple):
    """The correction of a shard for a norm other than its rank's own, in float64 [R, D]."""

    ratio_RD: np.ndarray
    shift_RD: np.ndarray  # zeros where the norm has no bias

    @property
    def shifts(self) -> bool:
        return bool(self.shift_RD.any())


@dataclass(frozen=True)
class Decision:
    """The decision about one tensor that every rank has a copy of, and the reason for it.

    `loss` tells whether and why the ranks' function is not kept: another merge was asked for, or no
    single model has it.
    """

    index: int
    theirs: str
    why: str
    drift: Drift
    loss: Loss = "none"


@dataclass
class MergePlan:
    """The merged model and how each of its leaves is made.

    Attributes:
        keys: the YAML's keys for the merged model.
        llama_mlp: whether the MLP is that of NeoX's `mlp_type: llama`.
        sequence_parallel: whether the ranks applied their norms to slices of the sequence.
        values: the merged copies in float64, by (leaf, module index).
        dtypes: the type in which each leaf is stored.
        reference: the type of a norm whose copies are folded away.
        rounding: the types that numbers are rounded to; empty if all are kept as they are.
        folds: by (norm, module index); only for copies that drifted.
    """

    model: ModelConfig
    keys: dict[str, Any]
    reference: np.dtype
    sequence_parallel: bool
    llama_mlp: bool = False
    values: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    folds: dict[tuple[str, int], Fold] = field(default_factory=dict)
    dtypes: dict[str, np.dtype] = field(default_factory=dict)
    rounding: set[np.dtype] = field(default_factory=set)
    decisions: list[Decision] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def rules(self) -> Mapping[int, tuple[Rule, ...]]:
        """The merged model's rules; it may have biases and an unembedding that the source lacks."""
        return neox.modules(self.model, self.llama_mlp)

    @property
    def sizes(self) -> Sizes:
        return sizes_of(self.model)

    @property
    def exact(self) -> bool:
        """Whether the merged model has the function of the ranks, apart from rounding."""
        return all(decision.loss == "none" for decision in self.decisions)

    @property
    def mergeable(self) -> bool:
        """Whether any single model has the function of the ranks."""
        return all(decision.loss != "unavoidable" for decision in self.decisions)

    def decision(self, index: int, theirs: str) -> Decision | None:
        return next((d for d in self.decisions if (d.index, d.theirs) == (index, theirs)), None)

    def fold(self, rule: Rule, index: int) -> Fold | None:
        """Return the fold that a tensor's rule requires; the final norm is one module earlier."""
        where = index - 1 if rule.norm == "final_norm" else index
        return self.folds.get((rule.norm, where))
