"""One function made of k ranks: the decision about every tensor that each rank has a copy of.

A split tensor is put together again; there is nothing to decide. Copies are another matter, because
they drift apart, and what a rank does with its own copy is part of the function:

- The biases of the two row-parallel matrices. In a parallel residual every rank adds its own before
  the one sum over ranks, so the function has their SUM. In a sequential residual the bias comes
  after the sum, and every rank has its own residual stream.
- The norms. A rank's own norm feeds only that rank's shards, so it can be folded into them exactly:
  with a reference (w, b) for all ranks, rank r's matrix and bias become

      W' = W diag(w_r / w)        c' = c + W (b_r - b w_r / w)

- In a reward model the final norm feeds a row-parallel matrix: a rank reads its own part of what
  its own copy makes, so that these parts of the copies are the one norm.
- Learned positions are added to each rank's own residual stream.

Ranks whose residual streams differ compute no function that any one model has: then the mean is
taken, and the certificate measures what that costs.
"""
# D hidden, R ranks

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from convert.casting import chosen
from convert.fate import differ, drift_of
from convert.neox.merged_dtypes import FLOAT32, choose_dtypes
from convert.neox.plan import Decision, Fold, Loss, MergeChoices, MergePlan
from convert.neox.unmergeable import refuse_unmergeable, without_drift
from convert.readers.neox import NeoxCheckpoint
from convert.rules.rule import Role, Rule
from jaxneox.config import Settings

Copies = dict[Rule, np.ndarray]
"""The copies of one norm's tensors, or of one bias: float64 [R, …] with every rank's copy."""

SAME = "one copy: all ranks have the same"
SUM = "the sum: every rank adds its own before the sum over ranks"
ONCE = "once: it is added after the sum over ranks"
OF_STREAMS = "the mean: each rank's residual stream had its own"
OWN_PARTS = "each rank's own part: the reward head of a rank reads this part of the norm alone"
OF_POSITIONS = "the mean: with sequence_parallel each rank's copy had its own positions"
OF_ROUTER = "rank 0's: NeoX's sinkhorn router chooses there, for all ranks"
NORMS = {
    "fold": "folded into the ranks' shards: each rank's own copy is kept exactly",
    "mean": "the ranks' mean (--norms mean), as in NeoX's own converter",
    "first": "rank 0's (--norms first), as in NeoX's zeroth partition",
}
NOT_FINITE = ", but for numbers that are not finite in some copy: these stay in the norm"


@np.errstate(invalid="ignore")  # numbers that are not finite are named when they are moved
def make_plan(source: NeoxCheckpoint, choices: MergeChoices) -> MergePlan:
    """Decide about every copy.

    Raises:
        UserError: no merge of any kind has the ranks' function.
    """
    sliced = Settings(source.given).parallel.sequence_parallel
    plan = MergePlan(
        source.model, dict(source.keys), chosen(choices.dtype, FLOAT32), sliced, source.llama_mlp
    )
    refuse_unmergeable(source)
    choices = without_drift(source, choices)
    for index, rules in plan.rules.items():
        for group in _groups(rules):
            role = group[0].role
            copies = {rule: _copies(source, index, rule) for rule in group}
            if role is Role.NORM:
                _merge_norm(plan, index, copies, choices)
            elif role is Role.BIAS:
                _merge_bias(plan, index, copies, choices)
            elif role is Role.COPY:
                _take_copy(plan, index, copies, choices)
            elif role is Role.ROUTER:
                _take_router(plan, index, copies)
    _grow(plan)
    _name_quirks(plan, source)
    choose_dtypes(plan, source, choices.dtype)
    return plan


def _merge_norm(plan: MergePlan, index: int, copies: Copies, choices: MergeChoices) -> None:
    name = next(iter(copies)).parts[0].leaf.rpartition(".")[0]
    drifted = any(map(differ, copies.values()))
    if drifted and name == "final_norm" and _reads_parts(plan, choices):
        for rule, copies_RD in copies.items():
            parts = np.split(copies_RD, len(copies_RD), axis=1)
            own = [part_RS[rank] for rank, part_RS in enumerate(parts)]
            plan.values[rule.parts[0].leaf, index] = np.concatenate(own)
            _decide(plan, index, rule, OWN_PARTS, copies_RD)
        return
    fold = choices.norms == "fold" and not plan.sequence_parallel
    why = NORMS[choices.norms]
    if fold and not all(np.isfinite(copies_RD).all() for copies_RD in copies.values()):
        why += NOT_FINITE
    loss: Loss = "none" if fold else "asked"
    if plan.sequence_parallel and choices.norms == "fold":
        why, loss = OF_POSITIONS, "unavoidable"
    if not drifted:
        why, loss = SAME, "none"
    for rule, copies_RD in copies.items():
        value = copies_RD[0]
        if drifted and choices.norms != "first":
            value = _reference(copies_RD) if fold else copies_RD.mean(axis=0)
        plan.values[rule.parts[0].leaf, index] = value
        _decide(plan, index, rule, why, copies_RD, loss)
    if drifted and fold:
        scale, bias = (
            next((r for r in copies if r.theirs.endswith(end)), None)
            for end in ((".weight", ".scale", ".g"), ".bias")
        )
        plan.folds[name, index] = _fold(plan, index, copies, scale, bias)


def _reads_parts(plan: MergePlan, choices: MergeChoices) -> bool:
    """Tell whether the parts that a reward model's ranks read are to be kept."""
    kept = choices.norms == "fold" and not plan.sequence_parallel
    return kept and plan.model.head == "reward" and plan.model.norm.kind != "scalenorm"


def _decide(
    plan: MergePlan, index: int, rule: Rule, why: str, copies_RD: np.ndarray, loss: Loss = "none"
) -> None:
    why = why if len(copies_RD) > 1 else "taken as it is: there is one rank"
    plan.decisions.append(Decision(index, rule.theirs, why, drift_of(copies_RD), loss))


def _fold(
    plan: MergePlan,
    index: int,
    copies: Copies,
    scale: Rule | None,
    bias: Rule | None,
) -> Fold:
    """Fold a norm's copies; the fold also makes up for rounding the reference to be stored.

    A number that is not finite in some copy is not folded: it would make others so in every matrix
    that reads the norm.
    """
    assert scale is not None
    leaf = scale.parts[0].leaf
    w_RD = copies[scale]
    w_D = _round(plan, leaf, index)
    some_D = np.isfinite(w_D) & (w_D != 0)
    ratio_RD = np.divide(w_RD, w_D, out=np.ones_like(w_RD), where=some_D)
    ratio_RD = np.broadcast_to(ratio_RD, (len(w_RD), plan.model.hidden_size))
    if bias is None:
        return Fold(ratio_RD, np.zeros_like(ratio_RD))
    leaf = bias.parts[0].leaf
    b_D = _round(plan, leaf, index)
    return Fold(ratio_RD, np.where(np.isfinite(b_D), copies[bias] - b_D * ratio_RD, 0.0))


def _round(plan: MergePlan, leaf: str, index: int) -> np.ndarray:
    rounded = plan.values[leaf, index].astype(plan.reference).astype(np.float64)
    plan.values[leaf, index] = rounded
    return rounded


def _reference(copies_RD: np.ndarray) -> np.ndarray:
    """Return the mean of the copies or, where they nearly cancel, the largest of them."""
    mean_D = copies_RD.mean(axis=0)
    largest_D = np.take_along_axis(copies_RD, abs(copies_RD).argmax(axis=0)[None], axis=0)[0]
    return np.where(abs(mean_D) < 0.5 * abs(largest_D), largest_D, mean_D)


def _merge_bias(plan: MergePlan, index: int, copies: Copies, choices: MergeChoices) -> None:
    """Sum a bias that NeoX adds before the all-reduce; take one copy of one that it adds after."""
    parallel = plan.model.parallel_residual
    total = parallel if choices.biases == "auto" else choices.biases == "sum"
    for rule, copies_RD in copies.items():
        drifted = differ(copies_RD)
        loss: Loss = "none" if total == parallel or len(copies_RD) == 1 else "asked"
        if total:
            value, why = copies_RD.sum(axis=0), SUM
        elif choices.norms == "first" or not drifted:
            value, why = copies_RD[0], ONCE
        else:
            value, why = copies_RD.mean(axis=0), OF_STREAMS
        if drifted and not total and not parallel:
            loss = "unavoidable"
        if choices.biases != "auto":
            why = f"{why} (as asked by --biases {choices.biases})"
        plan.values[rule.parts[0].leaf, index] = value
        _decide(plan, index, rule, why, copies_RD, loss)


def _take_copy(plan: MergePlan, index: int, copies: Copies, choices: MergeChoices) -> None:
    for rule, copies_RD in copies.items():
        same = not differ(copies_RD)
        mean = not same and choices.drift == "refuse"
        plan.values[rule.parts[0].leaf, index] = copies_RD.mean(axis=0) if mean else copies_RD[0]
        loss: Loss = "none" if same else "unavoidable"
        _decide(plan, index, rule, SAME if same else OF_STREAMS, copies_RD, loss)


def _take_router(plan: MergePlan, index: int, copies: Copies) -> None:
    """Take the first rank's copy, [experts, hidden] there; without drift all routers are it."""
    for rule, copies_RED in copies.items():
        plan.values[rule.parts[0].leaf, index] = copies_RED[0].T
        experts = plan.model.experts
        alone = experts is not None and experts.router == "sinkhorn"
        _decide(plan, index, rule, OF_ROUTER if alone else SAME, copies_RED)


def _grow(plan: MergePlan) -> None:
    """Add the biases and the unembedding that folds need and the source's architecture lacks."""
    for (name, _), fold in plan.folds.items():
        if name == "final_norm":
            _set(plan, "no_weight_tying", True, tied_embedding=False)
            if fold.shifts:
                _set(plan, "logit_bias", True, logit_bias=True)
        elif fold.shifts:
            model = plan.model
            if name == "layers.norm1" and not model.attention.bias:
                attention = replace(model.attention, bias=True)
                _set(plan, "use_bias_in_attn_linear", True, attention=attention)
            feeds_mlp = name == "layers.norm2" or model.shared_norm
            if feeds_mlp and not model.mlp.bias:
                _set(plan, "use_bias_in_mlp", True, mlp=replace(model.mlp, bias=True))


def _set(plan: MergePlan, key: str, value: Any, **fields: Any) -> None:
    changed = replace(plan.model, **fields)
    if changed == plan.model:
        return
    why = {
        "no_weight_tying": "the embedding is no longer tied: the final norm's copies drifted, and "
        "folding makes the matrix that reads it another one (--norms mean keeps the tie, at the "
        "cost that the certificate states)",
        "logit_bias": "the model has a bias on its logits, which NeoX and Hugging Face have not: "
        "the copies of the final norm's bias drifted (--norms mean does without, at the cost that "
        "the certificate states)",
    }.get(key, f"{key} is true now: the copies of a norm's bias drifted, and folding needs a bias")
    plan.warnings.append(why)
    plan.model = changed
    plan.keys[key] = value


def _name_quirks(plan: MergePlan, source: NeoxCheckpoint) -> None:
    plan.warnings += source.notes
    if source.half_angles:
        plan.warnings.append(
            f"NeoX of 2023 computed the angles of rotary in {source.dtype.name}, in which late "
            "positions are off; here they are right. The certificate measures the difference"
        )
    if source.half_slopes:
        plan.warnings.append(
            f"NeoX rounded alibi's slopes to {source.dtype.name} with the weights; here they are "
            "right. The certificate measures the difference"
        )
    if plan.model.attention_dropped:
        plan.warnings.append(
            "NeoX drops the attention's output where gpt_j_residual meets a gated MLP without "
            "biases: its weights change nothing. Imported as computed, under the key "
            "attention_dropped"
        )
    if not plan.exact:
        names = ", ".join(sorted({d.theirs for d in plan.decisions if d.loss != "none"}))
        plan.warnings.append(
            f"no exact merge was made of {names}: "
            + ("another was asked for" if plan.mergeable else "there is none")
            + "; the certificate measures the cost"
        )


def _groups(rules: tuple[Rule, ...]) -> Iterator[list[Rule]]:
    """Group the copies to decide about: single tensors, but the tensors of one norm together."""
    norms: dict[str, list[Rule]] = {}
    for rule in rules:
        if rule.role is Role.NORM:
            norms.setdefault(rule.theirs.rpartition(".")[0], []).append(rule)
        elif rule.role is not Role.SPLIT:
            yield [rule]
    yield from norms.values()


def _copies(source: NeoxCheckpoint, index: int, rule: Rule) -> np.ndarray:
    """Read the ranks' copies as float64 [R, ...]."""
    return np.stack([rank[rule.theirs].astype(np.float64) for rank in source.ranks(index)])
