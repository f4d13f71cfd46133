"""The merged model as it is decided before a number is moved."""
# D hidden, R ranks

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from convert.rules import neox
from convert.rules.rule import Rule, Sizes, sizes_of
from jaxneox.config.schema import ModelConfig

Norms = Literal["fold", "mean", "first"]
Biases = Literal["auto", "sum", "once"]
Dtype = Literal["keep", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Choices:
    """`mean` with `once`, and `first` with `once`, are the merges that NeoX has had."""

    norms: Norms = "fold"
    biases: Biases = "auto"
    dtype: Dtype = "keep"


class Fold(NamedTuple):
    """What makes up for a norm that is not the rank's own, in float64 [R, D]."""

    ratio_RD: np.ndarray
    shift_RD: np.ndarray  # zeros where the norm has no bias

    @property
    def shifts(self) -> bool:
        return bool(self.shift_RD.any())


@dataclass(frozen=True)
class Drift:
    """How far the ranks' copies of one tensor are from their mean."""

    max: float
    rms: float
    of: float  # the rms of the mean itself


@dataclass(frozen=True)
class Decision:
    """What became of one tensor that every rank has a copy of."""

    index: int
    theirs: str
    rule: str
    drift: Drift
    exact: bool = True


@dataclass
class Plan:
    """The merged model and how each of its leaves comes about.

    Attributes:
        values: the merged copies in float64, by (leaf, module index).
        reference: the type that a norm is stored in whose copies are folded away.
        rounding: the types that numbers are rounded to; none where all are kept as they are.
        folds: by (norm, module index); only where copies drifted.
    """

    model: ModelConfig
    keys: dict[str, Any]
    reference: np.dtype
    sequence_parallel: bool
    values: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    folds: dict[tuple[str, int], Fold] = field(default_factory=dict)
    dtypes: dict[str, np.dtype] = field(default_factory=dict)
    rounding: set[np.dtype] = field(default_factory=set)
    decisions: list[Decision] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def rules(self) -> dict[int, tuple[Rule, ...]]:
        """Of the merged model, which may have biases and an unembedding that the source has not."""
        return neox.modules(self.model)

    @property
    def sizes(self) -> Sizes:
        return sizes_of(self.model)

    @property
    def exact(self) -> bool:
        """Whether one model has the function of the ranks, but for rounding."""
        return all(decision.exact for decision in self.decisions)

    def fold(self, rule: Rule, index: int) -> Fold | None:
        """The fold that a tensor's rule asks for; the final norm lies one module before."""
        where = index - 1 if rule.norm == "final_norm" else index
        return self.folds.get((rule.norm, where))
