"""Objectives of training: the fields of a batch, and the sums of loss and figures that they make.

- `objective`: the protocol of all of them; `models`: what they look at.
- `next_token`: the cross-entropy of the token that follows.
- `pairs`: of a chosen and a rejected text: `dpo`, and `reward_pairs` for a reward model.
- `kto`, and `neox_kto` as NeoX has it: texts that are rated one by one.
- `reinforce`: completions with rewards.
- `own`: a function of one's own.
- `choice`: the objective of a configuration.

What they share:

- `texts`: how likely whole texts are.
- `groups`: statistics of micro-batches.
- `rounds`: batches cut into what passes the model at one time.
"""

from jaxneox.objectives.choice import build_objective
from jaxneox.objectives.models import Models
from jaxneox.objectives.next_token import NextToken
from jaxneox.objectives.objective import (
    DOCUMENTS,
    GIVEN_WEIGHTS,
    WEIGHTS,
    Batch,
    BatchField,
    Objective,
    PreparedObjective,
    Sums,
)
from jaxneox.objectives.rounds import rounds

__all__ = [
    "DOCUMENTS",
    "GIVEN_WEIGHTS",
    "WEIGHTS",
    "Batch",
    "BatchField",
    "Models",
    "NextToken",
    "Objective",
    "PreparedObjective",
    "Sums",
    "build_objective",
    "rounds",
]
