"""Proof that two checkpoints compute the same, by their settings, numbers and functions.

Both functions are followed layer by layer in float64, on random hidden states, which show a layer's
error whatever comes before it, and on a text, which shows how errors propagate. Where no number was
rounded they agree to float64's own rounding, so that a change of one weight by one part in a
hundred stands out in a model of any size.
"""
# B batch, T length

from collections.abc import Callable

import numpy as np

from convert.checkpoint import Checkpoint, UserProgram
from convert.proof.architectures import settings_that_differ
from convert.proof.follow import Following, distance
from convert.proof.numbers import NumberComparison
from convert.proof.program import limit
from convert.proof.result import Proof
from convert.proof.sides import one_thread_a_product

EXACT = 1e-11
"""Relative tolerance: float64 rounds at 1e-16, and sums of some 1e4 terms in another order come
near it."""

ROOM = 100
"""A layer in float32 rounds in some ten places where rounding its result does in one, and attention
scores of hundreds, as random weights have, amplify the rounding: 35 was measured on such a model of
24 layers of 2048, and 9 and 15 on trained ones."""


def prove(
    source: Checkpoint,
    target: Checkpoint,
    tokens_BT: np.ndarray,
    tolerance: float = EXACT,
    *,
    program: UserProgram | str = "not run",
    step: Callable[[], None] = lambda: None,
    folded: bool = False,
    older_merges: bool = False,
) -> Proof:
    """Compare `target` and the source's other functions with `source`; only `target` must agree.

    Args:
        source: the checkpoint to compare with.
        target: the checkpoint to be proved.
        tokens_BT: int [B, T], a text whose logits are compared from end to end.
        tolerance: the tolerated relative error of a layer.
        program: what a user runs, which is compared with the target as well, or why it is not
            run.
        step: called after each part.
        folded: whether norms were folded, so that different numbers may have the same function.
        older_merges: whether the source's older merges are compared with it as well.
    """
    proof = Proof(tolerance)
    settings = settings_that_differ(source.model, target.model)
    if dict(source.shapes) != dict(target.shapes):
        proof.failures = settings or ["the two have different parameters"]
        proof.unexplained = list(proof.failures)
        return proof
    others = dict(source.alternatives)
    if older_merges:
        others |= {title: forward() for title, forward in source.older_merges.items()}
    else:
        proof.not_computed = [*source.older_merges]
    proved = Following(proof, (source, target), others, tokens_BT, isinstance(program, UserProgram))
    with one_thread_a_product():
        logits, rounding_error = proved.follow(NumberComparison(target.model, folded), step)
    allowed = max(limit(target.model), ROOM * rounding_error)
    run_program(proof, allowed, program, logits, tokens_BT[: len(logits)])
    proof.unexplained = settings + proof.different + proof.failures
    proof.failures = proof.unexplained + [
        f"{e.name}: off by {e.random:.1e} of what it adds, the limit is {tolerance:.0e}"
        for e in proof.layers
        if not e.random <= tolerance
    ]
    return proof


def run_program(
    proof: Proof,
    allowed: float,
    program: UserProgram | str,
    logits: np.ndarray,
    tokens_BT: np.ndarray,
) -> None:
    """Compare the program in float32 with the target's own function in float64."""
    if isinstance(program, str):
        proof.program = program
        return
    proof.program = distance(logits[None], program.logits(tokens_BT)[None])
    proof.how_run = program.how
    if not proof.program <= allowed:
        proof.failures.append(
            f"the running program: its logits are off by {proof.program:.1e}, the limit of "
            f"float32 here is {allowed:.0e}"
        )
