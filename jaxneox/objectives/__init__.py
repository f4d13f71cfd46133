"""Objectives of training: the fields of a batch, and the sums of loss and figures that they make.

- `objective`: the protocol of all of them.
- `next_token`: the cross-entropy of the token that follows.
- `own`: a function of one's own.
- `choice`: the objective of a configuration.
"""

from jaxneox.objectives.choice import build_objective
from jaxneox.objectives.next_token import NextToken
from jaxneox.objectives.objective import (
    DOCUMENTS,
    GIVEN_WEIGHTS,
    WEIGHTS,
    Batch,
    BatchField,
    Objective,
    Sums,
)

__all__ = [
    "DOCUMENTS",
    "GIVEN_WEIGHTS",
    "WEIGHTS",
    "Batch",
    "BatchField",
    "NextToken",
    "Objective",
    "Sums",
    "build_objective",
]
