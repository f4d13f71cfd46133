"""Joins the ranks' shards to our leaves, one part at a time, and accounts for every element."""

from collections.abc import Mapping

import numpy as np

from convert.casting import cast
from convert.fate import Fate, bit_sum, not_finite
from convert.neox.plan import Fold, MergePlan
from convert.parts import STACKED, Leaves, Part, layers_with
from convert.readers.neox import NeoxCheckpoint
from convert.rules import neox
from convert.rules.rule import Role, Rule, Sizes, sizes_of
from jaxneox.config.schema import ModelConfig

Modules = list[tuple[int, tuple[Rule, ...]]]
"""Indices of modules in NeoX's Sequential, each with the rules of the tensors to read."""


def layer_of(index: int, model: ModelConfig) -> int | None:
    """Return the layer of a Sequential module, or None outside the blocks."""
    layer = index - neox.FIRST_BLOCK
    return layer if 0 <= layer < model.num_layers else None


def modules_of(part: Part, model: ModelConfig, llama_mlp: bool = False) -> Modules:
    """Return the modules with a part's parameters; the first block stands for shared ones."""
    rules, L = neox.modules(model, llama_mlp), model.num_layers
    if part == "embedding":
        modules = [(neox.EMBEDDING, rules[neox.EMBEDDING])]
        if shared := neox.shared(model):
            modules.append((neox.FIRST_BLOCK, shared))
        return modules
    if part == "head":
        after = (neox.final_norm_index(L), neox.unembedding_index(L))
        return [(index, rules[index]) for index in after if index in rules]
    return [(neox.FIRST_BLOCK + part, rules[neox.FIRST_BLOCK + part])]


def leaf_shapes(plan: MergePlan) -> dict[str, tuple[int, ...]]:
    """Return the shape of each whole leaf; leaves of blocks have the layer axis first."""
    model, shapes = plan.model, {}
    first_of_kind = [model.kinds.index(kind) for kind in dict.fromkeys(model.pattern)]
    parts: list[Part] = ["embedding", *first_of_kind, "head"]
    for part in parts:
        for _, rules in modules_of(part, model, plan.llama_mlp):
            for name, shape in module_shapes(rules, plan.sizes).items():
                stacked = (len(layers_with(name, model)),) if name.startswith(STACKED) else ()
                shapes[name] = stacked + shape
    return shapes


def module_shapes(rules: tuple[Rule, ...], sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one module's leaves, without the layer axis."""
    shapes = {}
    for rule in rules:
        for part in rule.parts:
            shapes[part.leaf] = part.whole(sizes)
    return shapes


@np.errstate(invalid="ignore")  # numbers that are not finite are named in the account
def merge_part(
    source: NeoxCheckpoint, plan: MergePlan, part: Part, room: Leaves | None = None
) -> tuple[Leaves, list[Fate]]:
    """Merge a part's leaves, and account for the tensors that they were made of.

    `room` may have arrays of an earlier part, which are written over: new memory has to be cleared.
    """
    leaves, fates = Leaves(), []
    for index, rules in modules_of(part, plan.model, plan.llama_mlp):
        made, ranks = merge_module(source, plan, index, rules, room)
        leaves |= made
        own = [rule for rule in rules if rule.theirs in ranks[0]]
        fates += [account(rule, ranks, made, plan, index) for rule in own]
        source.forget(index)
    return leaves, fates


@np.errstate(invalid="ignore")
def merged_leaves(source: NeoxCheckpoint, plan: MergePlan, part: Part) -> Leaves:
    """Merge a part's leaves, without an account."""
    leaves = Leaves()
    for index, rules in modules_of(part, plan.model, plan.llama_mlp):
        leaves |= merge_module(source, plan, index, rules)[0]
    return leaves


def merge_module(
    source: NeoxCheckpoint,
    plan: MergePlan,
    index: int,
    rules: tuple[Rule, ...],
    room: Leaves | None = None,
) -> tuple[Leaves, list[Mapping[str, np.ndarray]]]:
    """Merge the leaves of some of a module's tensors, without the layer axis.

    Returns:
        The leaves, and the ranks' tensors that they were made of.
    """
    leaves = {
        name: (room or {}).get(name, np.empty(shape, plan.dtypes[name]))
        for name, shape in module_shapes(rules, plan.sizes).items()
    }
    ranks = shards(source, plan, index)
    for rule in rules:
        if rule.role is Role.SPLIT:
            fill_split(rule, ranks, leaves, plan, plan.fold(rule, index))
        else:
            fill_copy(rule, leaves, plan, index)
    check_filled(leaves, rules, plan, len(ranks))
    return leaves, ranks


def check_filled(leaves: Leaves, rules: tuple[Rule, ...], plan: MergePlan, ranks: int) -> None:
    """Check that each element of ours was written once.

    Raises:
        RuntimeError: one was not, which is an error of this program.
    """
    sizes = sizes_of(plan.model, ranks)
    put = dict.fromkeys(leaves, 0)
    for rule in rules:
        for rank in range(ranks) if rule.role is Role.SPLIT else [0]:
            for part in rule.parts:
                put[part.leaf] += leaves[part.leaf][part.region(sizes, rank)].size
    wrong = [name for name, leaf in leaves.items() if put[name] != leaf.size]
    if wrong:
        raise RuntimeError(f"not every element was put once, in {', '.join(wrong)}")


def shards(source: NeoxCheckpoint, plan: MergePlan, index: int) -> list[Mapping[str, np.ndarray]]:
    """Return every rank's shards; an unembedding that the source lacks starts as the embedding."""
    untied = index == neox.unembedding_index(plan.model.num_layers)
    if untied and index not in source.shards:
        return [
            {"final_linear.weight": rank["word_embeddings.weight"]}
            for rank in source.ranks(neox.EMBEDDING)
        ]
    return source.ranks(index)


def fill_split(
    rule: Rule,
    ranks: list[Mapping[str, np.ndarray]],
    leaves: Leaves,
    plan: MergePlan,
    fold: Fold | None,
) -> None:
    sizes = sizes_of(plan.model, len(ranks))
    for rank, tensors in enumerate(ranks):
        shard = tensors.get(rule.theirs)
        if fold is not None:
            read = slice(None)
            if "S" in rule.parts[0].axes:  # of a row-parallel matrix, which a scale alone feeds
                read = slice(rank * sizes["S"], (rank + 1) * sizes["S"])
            shard = folded(rule, tensors, fold.ratio_RD[rank][read], fold.shift_RD[rank][read])
        assert shard is not None
        dtype = plan.dtypes[rule.parts[0].leaf]
        rule.put(cast(rule.theirs, shard, dtype), leaves, sizes, rank)


def folded(
    rule: Rule, tensors: Mapping[str, np.ndarray], ratio_D: np.ndarray, shift_D: np.ndarray
) -> np.ndarray:
    """Fold a norm in float64: a matrix becomes W diag(ratio), a bias c becomes c + W shift."""
    name, _, kind = rule.theirs.rpartition(".")
    weight = tensors[f"{name}.weight"].astype(np.float64)
    if kind == "weight":
        return weight * ratio_D
    bias = tensors.get(rule.theirs)
    return weight @ shift_D + (0.0 if bias is None else bias.astype(np.float64))


def fill_copy(rule: Rule, leaves: Leaves, plan: MergePlan, index: int) -> None:
    """Fill a leaf with a merged copy; a bias that only folding needs starts as zero."""
    leaf = rule.parts[0].leaf
    value = plan.values.get((leaf, index), np.zeros(()))
    leaves[leaf][...] = cast(rule.theirs, value, plan.dtypes[leaf])


def account(
    rule: Rule,
    ranks: list[Mapping[str, np.ndarray]],
    leaves: Leaves,
    plan: MergePlan,
    index: int,
) -> Fate:
    """Count where the numbers of one tensor went, after they were put there."""
    tensors = [rank[rule.theirs] for rank in ranks]
    split = rule.role is Role.SPLIT
    sizes = sizes_of(plan.model, len(ranks))
    used_by = range(len(ranks)) if split else [0]
    regions = [
        leaves[part.leaf][part.region(sizes, rank)] for part in rule.parts for rank in used_by
    ]
    decision = plan.decision(index, rule.theirs)
    moved = split and plan.fold(rule, index) is None
    copied = moved and regions[0].dtype == tensors[0].dtype
    return Fate(
        rule.theirs,
        index,
        layer_of(index, plan.model),
        len(ranks),
        tensors[0].shape,
        tensors[0].dtype.name,
        " + ".join(part.leaf for part in rule.parts),
        decision.why if decision else put_together(rule, len(ranks), folded=not moved),
        elements=sum(tensor.size for tensor in tensors),
        used=sum(region.size for region in regions) * (1 if split else len(ranks)),
        changed=0 if copied else changed(rule, tensors, leaves, sizes),
        same_bits=sum(map(bit_sum, tensors)) == sum(map(bit_sum, regions)) if copied else None,
        drift=decision.drift if decision else None,
        not_finite=sum(map(not_finite, tensors)),
    )


def put_together(rule: Rule, ranks: int, folded: bool) -> str:
    fate = "put together: each rank has a share" if ranks > 1 else "taken as it is"
    return f"{fate}, with what the rank's copy of {rule.norm} differs by" if folded else fate


def changed(rule: Rule, tensors: list[np.ndarray], leaves: Leaves, sizes: Mapping[str, int]) -> int:
    """Count the differences between our elements and those of each rank."""
    total = 0
    for rank, tensor in enumerate(tensors):
        ours = rule.get(leaves, sizes, rank if rule.role is Role.SPLIT else 0)
        total += int((ours.astype(np.float64) != tensor.astype(np.float64)).sum())
    return total
