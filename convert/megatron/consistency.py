"""Checks Megatron-LM's tensors against their model, and reports every contradiction at once."""

from collections.abc import Iterator

import numpy as np

from convert.readers.megatron_shards import Shards, ShardTensor
from convert.rules.megatron import HEAD, PROJ, rules, split_axis
from convert.rules.rule import Role, Rule, sizes_of
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError, listed

FLOATS = ("float32", "float16", "bfloat16")

Shapes = dict[str, tuple[int, ...]]


def check_tensors(shards: Shards, model: ModelConfig) -> None:
    """Check every tensor's name, shape and type against the model.

    Raises:
        UserError: a tensor is missing, unknown or of another shape or type.
    """
    folder = shards.files.folder
    if shards.version < 2 and model.attention.group > 1:
        raise UserError(
            f"{folder}: checkpoint_version {shards.version:g} with grouped heads, which "
            "Megatron-LM had only later"
        )
    wrong = [*_contradictions(shards, model)]
    if wrong:
        raise UserError(
            f"{folder}: its tensors are not those of one model in {len(wrong)} places: "
            f"{listed(wrong, 64, '; ')}"
        )


def _contradictions(shards: Shards, model: ModelConfig) -> Iterator[str]:
    there = {name for ranks in shards.layers.values() for rank in ranks for name in rank}
    for layer, ranks in shards.layers.items():
        expected = dict(_shapes(shards, model, inside=layer is not None))
        if f"{PROJ}.bias" not in there:  # with add_qkv_bias alone
            expected.pop(f"{PROJ}.bias", None)
        first = shards.layers[None if layer is None else 0][0]
        place = "" if layer is None else f"layer {layer}, "
        for rank, tensors in enumerate(ranks):
            where = f"{place}rank {rank}: "
            for name in sorted(expected.keys() - tensors.keys()):
                yield f"{where}{name} {list(expected[name])} is missing"
            for name in sorted(tensors.keys() - expected.keys()):
                if name != HEAD:  # a tied embedding's copy
                    yield f"{where}{name} {list(tensors[name].shape)} is unknown"
            for name in sorted(tensors.keys() & expected.keys() & first.keys()):
                yield from _unlike(where + name, tensors[name], expected[name], first[name].dtype)


def _unlike(
    where: str, tensor: ShardTensor, shape: tuple[int, ...], dtype: np.dtype
) -> Iterator[str]:
    if tensor.shape != shape:
        yield f"{where} is {list(tensor.shape)}, expected {list(shape)}"
    elif tensor.dtype != dtype:
        yield f"{where} is {tensor.dtype}, elsewhere {dtype}"
    elif tensor.dtype.name not in FLOATS:
        yield f"{where} is {tensor.dtype}, which is none of {', '.join(FLOATS)}"


def _shapes(shards: Shards, model: ModelConfig, *, inside: bool) -> Iterator[tuple[str, tuple]]:
    """Return the shapes of each rank's tensors, or raise a UserError if one does not divide."""
    for rule in rules(model, inside=inside):
        shape = share(rule, rule.shape(sizes_of(model)), shards.tp)
        if shape is None:
            raise UserError(
                f"{shards.files.folder}: {rule.theirs} {list(rule.shape(sizes_of(model)))} does "
                f"not divide over the {shards.tp} ranks of the files"
            )
        yield rule.theirs, shape


def share(rule: Rule, whole: tuple[int, ...], ranks: int) -> tuple[int, ...] | None:
    """Return one rank's share of a shape, or None if the ranks do not divide it."""
    if rule.role is not Role.SPLIT:
        return whole
    axis = split_axis(rule)
    if whole[axis] % (ranks * (len(rule.parts) if axis == 0 else 1)):
        return None
    return (*whole[:axis], whole[axis] // ranks, *whole[axis + 1 :])
