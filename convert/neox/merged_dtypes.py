"""The types in which the merged parameters of a NeoX checkpoint are stored."""

import numpy as np

from convert.casting import chosen
from convert.neox.plan import Dtype, MergePlan
from convert.readers.neox import NeoxCheckpoint
from convert.rules import neox
from convert.rules.rule import Rule
from jaxneox.config.schema import ModelConfig

FLOAT32 = np.dtype(np.float32)


def choose_dtypes(plan: MergePlan, source: NeoxCheckpoint, asked: Dtype) -> None:
    """Choose each leaf's type; `keep` is the source's, or float32 if merged values need it."""
    theirs = source.dtype
    leaves = {leaf for rules in source_rules(plan.model) for rule in rules for leaf in rule.leaves}
    plan.dtypes = dict.fromkeys(leaves, chosen(asked, theirs))
    folded = {
        leaf
        for index, rules in plan.rules.items()
        for rule in rules
        if plan.fold(rule, index)
        for leaf in rule.leaves
    }
    changed = {leaf for (leaf, _), v in plan.values.items() if not holds(theirs, v)} | folded
    if asked == "keep" and theirs != FLOAT32 and changed:
        plan.dtypes |= dict.fromkeys(changed, FLOAT32)
        plan.warnings.append(
            f"{len(changed)} parameters are stored in float32, because {theirs.name} cannot hold "
            f"what merging makes of them (--dtype {theirs.name} rounds them): "
            + ", ".join(sorted(changed))
        )
    plan.rounding = {plan.dtypes[leaf] for leaf in folded}
    plan.rounding |= {
        plan.dtypes[leaf] for (leaf, _), v in plan.values.items() if not holds(plan.dtypes[leaf], v)
    }
    if not np.can_cast(theirs, plan.dtypes["embed.tokens"], "safe"):
        plan.rounding.add(plan.dtypes["embed.tokens"])


def source_rules(model: ModelConfig) -> list[tuple[Rule, ...]]:
    return [*neox.modules(model).values(), neox.shared(model)]


def holds(dtype: np.dtype, values: np.ndarray) -> bool:
    """Tell whether the type can represent every value."""
    with np.errstate(over="ignore"):
        return bool((values.astype(dtype).astype(np.float64) == values).all())
