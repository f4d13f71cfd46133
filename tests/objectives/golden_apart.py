"""How far a run is from NeoX's: losses, figures, gradients and logits, in parts of their bounds."""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from convert.rules import neox
from convert.rules.rule import sizes_of
from jaxneox.config.schema import ModelConfig
from jaxneox.model import Model
from tests.model.adapter import ONE_DEVICE, one_device
from tests.objectives.golden_cases import GoldenCase

LOSS, FIGURE, GRADIENT, LOGITS, RATE = 3e-6, 1e-5, 1e-5, 2e-5, 1e-7
"""Shares of what is compared; of the largest rate, since a cosine is rounded beside 1."""

SUM = 1e-6
"""What float32 leaves of a sum of log-probabilities, as a share of it; NeoX's is rounded too."""

TEXT = 4e-5
"""The same of sums of about -200, of which the losses are made."""

WITHOUT_Z_LOSS = "rm_gas2_pythia_mp2"
"""Its values may all be moved together, so the last norm's bias has a gradient of 0.

Adam makes whole steps of the rounding that is left of it, and the values drift.
"""
DRIFT = 1e-4

FAR = {
    "dpo_reffree_mp1": 1e-4,
    WITHOUT_Z_LOSS: DRIFT,
    "key_train_epochs_paths": 5e-5,
}
"""Bounds of the last logits where rounding grows.

In dpo_reffree_mp1 it does by losses of up to 27, in key_train_epochs_paths by eight steps at rates
of up to 1.7e-3 instead of five; a reproduction in float64 is as far from NeoX's float32 there.
"""


class Run(NamedTuple):
    """A golden run, taken here.

    Attributes:
        model: the architecture.
        figures: of each step.
        gradients: of the first step.
        first, last: the parameters before the first step, and after the last one.
    """

    model: ModelConfig
    figures: list[dict[str, float]]
    gradients: dict[str, np.ndarray]
    first: dict[str, np.ndarray]
    last: dict[str, np.ndarray]


def in_parts(case: GoldenCase, run: Run) -> dict[str, float]:
    """The greatest difference of each kind, in parts of its bound."""
    arrays, name = case.arrays, str(case)
    first, last = (outputs(run.model, p, arrays["fixed_tokens"]) for p in (run.first, run.last))
    logits = "init_logits" in arrays  # which NeoX's pipeline did not give
    rates = [figures["lr"] for figures in run.figures]
    parts = {
        "loss": max(losses(case, run)),
        "figures": max(figures(case, run).values(), default=0.0),
        "gradient": max(gradients(case, run).values()),
        "first logits": apart(first, arrays["init_logits"]) / first_bound(case) if logits else 0.0,
        "last logits": apart(last, arrays["final_logits"]) / FAR.get(name, LOGITS)
        if logits
        else 0.0,
        "lr": max(abs(np.array(rates) - arrays["lr"][:, -1])) / (RATE * max(rates)),
    }
    return {kind: float(part) for kind, part in parts.items()}


def first_bound(case: GoldenCase) -> float:
    """Bound the first logits; those of the runs with muP are below 1, and agree as far."""
    return 2e-6 if str(case).startswith("mup") else LOGITS


def losses(case: GoldenCase, run: Run) -> Iterator[float]:
    for found, loss in zip(run.figures, case.arrays["metric/lm_loss"], strict=True):
        yield abs(found["loss"] - loss) / max(LOSS * abs(loss), TEXT * case.beta)


def figures(case: GoldenCase, run: Run) -> dict[str, float]:
    """Each figure of each step."""
    names = [name.removeprefix("metric/") for name in case.arrays if name.startswith("metric/")]
    parts = {}
    for step, found in enumerate(run.figures):
        expected = {name: float(case.arrays[f"metric/{name}"][step]) for name in names}
        for name in names:
            # Where the reference was computed before, rounding decides which of equals is greater.
            tie = name == "reward_acc" and case.given and step == 0
            if name != "lm_loss" and not tie:
                difference = abs(found[name] - expected[name])
                parts[f"{name} of step {step + 1}"] = difference / bound(case, name, expected, step)
    return parts


def bound(case: GoldenCase, name: str, expected: dict[str, float], step: int) -> float:
    """Bound the difference of a figure by the rounding of what it is made of."""
    if name in ("reward_acc", "accuracy"):
        return 1e-6  # of a mean of zeros and ones
    if name.endswith("_values") and str(case) == WITHOUT_Z_LOSS:
        return DRIFT
    if case.kind == "rm":
        return FIGURE * max(abs(expected[n]) for n in ("pos_values", "neg_values", "margin"))
    text = max([abs(x) for n, x in expected.items() if is_text(n)])
    if is_text(name):
        return SUM * text
    if name in ("chosen_rewards", "rejected_rewards", "margins"):
        return SUM * text * case.beta
    if name == "policy_rewards":  # NeoX's sum over the rows of a micro-batch
        return SUM * text * case.beta * case.micro
    if name == "kl":
        return SUM * text / (labels(case, step) if case.kind == "kto" else 1)
    return FIGURE * abs(expected[name])


def is_text(name: str) -> bool:
    """Whether a figure is a log-probability, of a text or (REINFORCE's) of a position."""
    sums = ("chosen_pos", "chosen_neg", "ref_pos", "ref_neg")
    return name in sums or name.endswith("logp")


def labels(case: GoldenCase, step: int) -> float:
    """The mean number of labels of a row."""
    mask = case.arrays["batch/loss_mask"][step]
    return float(mask.sum(axis=-1).mean())


def gradients(case: GoldenCase, run: Run) -> dict[str, float]:
    """Each of NeoX's tensors, of which it has the first rows, by the L2 norm of the difference."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    sequential = "sequential." if any("/sequential." in name for name in case.arrays) else ""
    for rank in range(case.ranks):
        prefix = (f"grad1_rank{rank}/" if rank else "grad1/") + sequential
        for name, ours in tensors(run.model, run.gradients, case.ranks, rank):
            theirs = case.arrays.get(prefix + name)
            if theirs is not None:
                found[prefix + name] = ours[: len(theirs)], theirs
    recorded = {name for name in case.arrays if name.startswith("grad1")}
    assert found.keys() == recorded, sorted(found.keys() ^ recorded)
    largest = max(np.linalg.norm(theirs) for _, theirs in found.values())
    if str(case) == WITHOUT_Z_LOSS:
        for name in [name for name in found if name.endswith("norm.bias")]:
            assert all(np.linalg.norm(x) < 1e-7 * largest for x in found.pop(name)), name
    return {
        name: float(np.linalg.norm(ours - theirs))
        / (GRADIENT * max(float(np.linalg.norm(theirs)), 1e-3 * largest))
        for name, (ours, theirs) in found.items()
    }


def tensors(
    model: ModelConfig, leaves: dict[str, np.ndarray], ranks: int, rank: int
) -> Iterator[tuple[str, np.ndarray]]:
    """One rank's tensors in NeoX's names and layout."""
    sizes = sizes_of(model, ranks)
    for index, rules in neox.modules(model).items():
        layer = index - neox.FIRST_BLOCK
        inside = 0 <= layer < model.num_layers
        for rule in rules:
            own = {n: leaves[n][layer] if inside else leaves[n] for n in rule.leaves}
            yield f"{index}.{rule.theirs}", rule.get(own, sizes, rank)


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    found = found[:, : expected.shape[1]]  # tests/golden has fewer positions
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(abs(found.astype(np.float64) - expected).max())


def outputs(model: ModelConfig, params: dict[str, np.ndarray], tokens_BT: np.ndarray) -> np.ndarray:
    """Logits at every eighth position [B, T / 8, V], or a reward model's values [B, T, 1]."""
    with one_device(model):
        found = np.asarray(function(model)(params, tokens_BT.astype(np.int32)))
    return found[..., None] if model.head == "reward" else found[:, 7::8]


@cache
def function(model: ModelConfig) -> Any:
    functions = Model(model, ONE_DEVICE)
    if model.head == "reward":
        return jax.jit(lambda params, tokens: functions.values(params, tokens[None])[0])
    return jax.jit(functions.logits)
