"""Two opened checkpoints of any kinds as a case to be proved."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import ml_dtypes
import numpy as np

from convert.hf.export import Export
from convert.merge import make_plan
from convert.plan import Choices, Plan
from convert.proof.compare import EXACT, Proof, leaves_of, prove, settings_that_differ
from convert.proof.program import Logits, program_of
from convert.proof.sample import sample
from convert.proof.sides import Direct, DirectSide, RanksSide, Side, UnsharedSide, historic
from convert.readers.hf import HfCheckpoint
from convert.readers.jaxneox import JaxneoxCheckpoint
from convert.readers.neox import NeoxCheckpoint
from jaxneox.config.schema import ModelConfig
from jaxneox.data import Tokenizer

Opened = NeoxCheckpoint | JaxneoxCheckpoint | HfCheckpoint

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
    exact: bool = True  # whether one model can have the source's function at all
    folded: bool = False  # whether norms were folded: numbers may differ, products may not
    contradictions: list[str] = field(default_factory=list)  # of the target with itself

    @property
    def tolerance(self) -> float:
        return max([EXACT, *(SLACK * float(ml_dtypes.finfo(d).eps) for d in self.rounding)])

    def prove(self, step: Callable[[], None] = lambda: None) -> Proof:
        sides = self.source, self.target, self.others
        proof = prove(*sides, self.tokens_BT, self.tolerance, self.program, step, self.folded)
        proof.failures += self.contradictions
        return proof


def case_of(
    source: Opened, target: Opened, tokens_BT: np.ndarray | None = None, plan: Plan | None = None
) -> Case:
    """`plan` is how a NeoX source was merged; without it, as the target says that it was."""
    right = side_of(target, None, "the converted model")
    left = side_of(fitted(source, right.model), plan or merging(source, target), "the source")
    if left.model.shared_norm and not right.model.shared_norm:
        left = UnsharedSide(left)
    tokens_BT, text = text_for(source, target, right.model, tokens_BT)
    case = Case(left, right, tokens_BT, text, program=program_of(target))
    case.rounding = narrowed(left, right)
    for side in (left, right):
        if isinstance(side, RanksSide):
            case.rounding |= side.plan.rounding
            case.exact &= side.plan.exact
            case.folded |= bool(side.plan.folds)
    if isinstance(source, NeoxCheckpoint) and source.mp > 1:
        case.others = [*historic(source)]
    if isinstance(source, NeoxCheckpoint) and source.half_angles and isinstance(left, RanksSide):
        title = f"the source, its angles in {source.dtype.name} as in 2023"
        case.others.append(RanksSide(title, source, left.plan, source.dtype))
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
    """The source as it had to be written: without padded rows."""
    rows = model.vocab_size
    if not isinstance(source, JaxneoxCheckpoint) or rows >= source.model.vocab_size:
        return source
    return Export(source, replace(source.model, vocab_size=rows))


def narrowed(source: Side, target: Side) -> set[np.dtype]:
    """The target's types that cannot hold every number of the source's."""
    shared = leaves_of(source.model).keys() & leaves_of(target.model).keys()
    pairs = {(source.dtype(name), target.dtype(name)) for name in shared}
    return {narrow for wide, narrow in pairs if not np.can_cast(wide, narrow, "safe")}


def text_for(
    source: Opened, target: Opened, model: ModelConfig, tokens_BT: np.ndarray | None
) -> tuple[np.ndarray, str]:
    if tokens_BT is not None:
        return tokens_BT, f"{tokens_BT.size} given tokens"
    return sample(model, next(tokenizers(source, target), None))


def tokenizers(*opened: Opened) -> Iterator[Tokenizer]:
    for checkpoint in opened:
        found = None if isinstance(checkpoint, NeoxCheckpoint) else checkpoint.tokenizer
        if found is not None:
            yield found


def place(opened: Opened) -> Path:
    match opened:
        case NeoxCheckpoint(files=files):
            return files.folder
        case JaxneoxCheckpoint(place=at):
            return at.folder
        case _:
            return opened.folder
