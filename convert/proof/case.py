"""Two opened checkpoints as a case to be proved."""

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from convert.checkpoint import Checkpoint, UserProgram
from convert.proof.architectures import settings_that_differ
from convert.proof.compare import EXACT, prove
from convert.proof.program import program_of
from convert.proof.result import Proof
from convert.proof.sample import sample
from convert.refit import as_other

SLACK = 8
"""Tolerance in roundings: a sum of products of once-rounded factors is off by less than one
rounding of its terms, and a layer has a handful of such sums in a row."""


@dataclass
class Case:
    """A source and a target, and what is known about how close their functions must be.

    Attributes:
        tokens_BT: the text on which the two are compared.
        text: a description of the tokens.
        rounding: the types that numbers were rounded to; empty if every number was kept.
        mergeable: whether any single model has the source's function.
        exact: whether the function was meant to be kept.
        folded: whether norms were folded, so that products of tensors are kept but not the
            tensors.
        contradictions: the target's contradictions with itself.
        older_merges: whether the source's older merges are compared with it as well.
    """

    source: Checkpoint
    target: Checkpoint
    tokens_BT: np.ndarray
    text: str
    rounding: set[np.dtype]
    program: UserProgram | str
    mergeable: bool
    exact: bool
    folded: bool
    contradictions: list[str]
    older_merges: bool = False

    @classmethod
    def of(
        cls,
        source: Checkpoint,
        target: Checkpoint,
        text: tuple[np.ndarray, str] | None = None,
        *,
        older_merges: bool = False,
    ) -> "Case":
        """Make a case; `text` is tokens [B, T] and their description, by default a sample."""
        fitted = as_other(source, target)
        both = source.fidelity, target.fidelity
        tokens_BT, named = text or sample(target.model, source.tokenizer or target.tokenizer)
        return cls(
            fitted,
            target,
            tokens_BT,
            named,
            narrowed(fitted, target).union(*(fidelity.rounding for fidelity in both)),
            program_of(target),
            mergeable=all(fidelity.mergeable for fidelity in both),
            exact=all(fidelity.exact for fidelity in both),
            folded=any(fidelity.folded for fidelity in both),
            contradictions=contradictions(target),
            older_merges=older_merges,
        )

    @property
    def tolerance(self) -> float:
        return max([EXACT, *(SLACK * float(ml_dtypes.finfo(d).eps) for d in self.rounding)])

    def prove(self, step: Callable[[], None] = lambda: None) -> Proof:
        proof = prove(
            self.source,
            self.target,
            self.tokens_BT,
            self.tolerance,
            program=self.program,
            step=step,
            folded=self.folded,
            older_merges=self.older_merges,
        )
        proof.failures += self.contradictions
        proof.unexplained += self.contradictions
        return proof


def narrowed(source: Checkpoint, target: Checkpoint) -> set[np.dtype]:
    """Return the target's types that cannot hold every number of the source's."""
    shared = source.shapes.keys() & target.shapes.keys()
    pairs = {(source.dtype(name), target.dtype(name)) for name in shared}
    return {narrow for wide, narrow in pairs if not np.can_cast(wide, narrow, "safe")}


def contradictions(target: Checkpoint) -> list[str]:
    """List the settings in which the target's own files describe two models."""
    if target.declared_model is None:
        return []
    blocks = f"layer 0 to layer {target.model.num_layers - 1}"
    return [
        f"{blocks}: config.yml contradicts the checkpoint's own keys: {difference}"
        for difference in settings_that_differ(target.model, target.declared_model)
    ]
