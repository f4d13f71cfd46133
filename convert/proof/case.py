"""Two opened checkpoints of any kinds as a case to be proved."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from convert.merge import make_plan
from convert.plan import Choices, Plan
from convert.proof.compare import EXACT, Proof, prove, settings_that_differ
from convert.proof.program import Logits, program_of
from convert.proof.sample import sample
from convert.proof.sides import (
    Direct,
    DirectSide,
    MegatronSide,
    RanksSide,
    Refitted,
    Side,
    UnsharedSide,
    historic,
    leaves_of,
    refitted,
)
from convert.readers.hf import HfCheckpoint
from convert.readers.jaxneox import JaxneoxCheckpoint
from convert.readers.megatron import MegatronCheckpoint
from convert.readers.neox import NeoxCheckpoint
from jaxneox.config.schema import ModelConfig
from jaxneox.data import Tokenizer

Opened = NeoxCheckpoint | JaxneoxCheckpoint | HfCheckpoint | MegatronCheckpoint

SLACK = 8
"""A sum of products whose factors were rounded once is off by less than a rounding of its terms,
and a layer has a handful of such sums behind one another."""


@dataclass
class Case:
    """`rounding` are the types that numbers were rounded to; none where all were kept."""

    source: Side
    target: Side
    tokens_BT: np.ndarray
    text: str  # what the tokens are
    rounding: set[np.dtype] = field(default_factory=set)
    others: list[Side] = field(default_factory=list)
    program: Logits | str = "not run"
    mergeable: bool = True  # whether any single model has the source's function
    exact: bool = True  # whether it was to be kept
    folded: bool = False  # whether norms were folded: numbers may differ, products may not
    contradictions: list[str] = field(default_factory=list)  # of the target with itself

    @property
    def tolerance(self) -> float:
        return max([EXACT, *(SLACK * float(ml_dtypes.finfo(d).eps) for d in self.rounding)])

    def prove(self, step: Callable[[], None] = lambda: None) -> Proof:
        sides = self.source, self.target, self.others
        proof = prove(*sides, self.tokens_BT, self.tolerance, self.program, step, self.folded)
        proof.failures += self.contradictions
        proof.unexplained += self.contradictions
        return proof


def case_of(
    source: Opened,
    target: Opened,
    text: tuple[np.ndarray, str] | None = None,
    plan: Plan | None = None,
) -> Case:
    """`text` is tokens [B, T] and what they are; `plan` how a NeoX source was merged, without it as
    the target says that it was."""
    right = side_of(target, None, "the converted model")
    left = side_of(fitted(source, right.model), plan or merging(source, target), "the source")
    if left.model.shared_norm and not right.model.shared_norm:
        left = UnsharedSide(left)
    text = text or sample(right.model, next(tokenizers(source, target), None))
    case = Case(left, right, *text, program=program_of(target))
    case.rounding = narrowed(left, right)
    for side in (left, right):
        if isinstance(side, RanksSide):
            case.rounding |= side.plan.rounding
            case.exact &= side.plan.exact
            case.mergeable &= side.plan.mergeable
            case.folded |= bool(side.plan.folds)
    for opened in (source, target):
        if isinstance(opened, MegatronCheckpoint):
            case.mergeable &= not opened.drifted
            case.exact &= not opened.drifted
            if opened.zero_centered:  # 1 + weight is rounded, there as here
                case.rounding.add(np.dtype(np.float32))
    if isinstance(source, NeoxCheckpoint) and source.mp > 1:
        case.others = [*historic(source)]
    if isinstance(source, NeoxCheckpoint) and source.half_angles and isinstance(left, RanksSide):
        title = f"the source, its angles in {source.dtype.name} as in 2023"
        case.others.append(RanksSide(title, source, left.plan, source.dtype))
    if isinstance(source, NeoxCheckpoint) and source.half_slopes and isinstance(left, RanksSide):
        title = f"the source, its alibi slopes in {source.dtype.name}"
        case.others.append(RanksSide(title, source, left.plan, rounded=True))
    if isinstance(target, JaxneoxCheckpoint):
        blocks = f"layer 0 to layer {target.model.num_layers - 1}"
        case.contradictions = [
            f"{blocks}: config.yml contradicts the checkpoint's own keys: {difference}"
            for difference in settings_that_differ(target.model, target.said)
        ]
    return case


def side_of(opened: Opened | Direct, plan: Plan | None, title: str) -> Side:
    if isinstance(opened, NeoxCheckpoint):
        return RanksSide(title, opened, plan or make_plan(opened, Choices()))
    if isinstance(opened, MegatronCheckpoint):
        return MegatronSide(title, opened)
    return DirectSide(title, opened)


def merging(source: Opened, target: Opened) -> Plan | None:
    if not isinstance(source, NeoxCheckpoint):
        return None
    return make_plan(source, chosen(target))


def chosen(target: Opened) -> Choices:
    """How a checkpoint of ours says that it was merged."""
    said = target.conversion if isinstance(target, JaxneoxCheckpoint) else {}
    return Choices(**{k: v for k, v in said.items() if k in ("norms", "biases", "dtype")})


def fitted(source: Opened, model: ModelConfig) -> Opened | Direct:
    """The source with as many rows of the vocabulary, and the biases, as had to be written."""
    if isinstance(source, NeoxCheckpoint) or refitted(source.model, model) == source.model:
        return source
    return Refitted(source, model)


def narrowed(source: Side, target: Side) -> set[np.dtype]:
    """The target's types that cannot hold every number of the source's."""
    shared = leaves_of(source.model).keys() & leaves_of(target.model).keys()
    pairs = {(source.dtype(name), target.dtype(name)) for name in shared}
    return {narrow for wide, narrow in pairs if not np.can_cast(wide, narrow, "safe")}


def tokenizers(*opened: Opened) -> Iterator[Tokenizer]:
    for checkpoint in opened:
        found = None if isinstance(checkpoint, NeoxCheckpoint) else checkpoint.tokenizer
        if found is not None:
            yield found
