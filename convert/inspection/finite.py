"""Weights that hold NaN or infinity: the run diverged, or the file is damaged."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np

from convert.fate import named, not_finite
from convert.inspection.facts import Facts, Use
from convert.readers.hf import HfCheckpoint
from convert.readers.jaxneox import JaxneoxCheckpoint
from convert.readers.megatron import MegatronCheckpoint
from convert.readers.neox import NeoxCheckpoint
from convert.rules.neox import FIRST_BLOCK

MOST = 1 << 30
"""Weights of up to this many bytes are read unasked."""


class Weight(NamedTuple):
    """A weight: its name as users know it, and the function that reads it."""

    where: str
    read: Callable[[], np.ndarray]


def find(facts: Facts, weights: Iterable[Weight], *, whatever_size: bool) -> None:
    """Name every weight that holds a number which is not finite, or note that none was read."""
    nbytes = facts.bytes.get("weights", 0)
    if nbytes > MOST and not whatever_size:
        facts.notes.append(
            f"not searched for NaN: {nbytes / 1e9:.1f} GB of weights; --numbers reads them"
        )
        return
    for weight in weights:
        values = weight.read()
        if bad := not_finite(values):
            facts.not_finite.append(f"{weight.where}: {bad} of {values.size}")
    if facts.not_finite:
        facts.problems.append(
            f"{facts.path}: holds numbers that are NaN or infinite, in {named(facts.not_finite)}"
        )


def conversion(facts: Facts, command: str) -> Use:
    """Show the command that converts the weights; numbers that are not finite prove nothing."""
    if not facts.not_finite:
        return Use(command, "the weights, certified")
    return Use(f"{command} --no-verify", "the weights as they are, NaN included, unproved")


def of_neox(source: NeoxCheckpoint) -> Iterable[Weight]:
    for index, ranks in source.shards.items():
        block = FIRST_BLOCK <= index < FIRST_BLOCK + source.layers
        place = f"layer {index - FIRST_BLOCK}, " if block else ""
        for rank, tensors in enumerate(ranks):
            of_rank = f", rank {rank}" if len(ranks) > 1 else ""
            for name, tensor in tensors.items():
                yield Weight(f"{place}{name}{of_rank}", tensor.numpy)
        source.forget(index)


def of_hf(source: HfCheckpoint) -> Iterable[Weight]:
    for name, tensor in source.tensors.items():
        yield Weight(name, tensor.numpy)


def of_megatron(source: MegatronCheckpoint) -> Iterable[Weight]:
    for layer, ranks in source.shards.layers.items():
        place = "" if layer is None else f"layer {layer}, "
        for rank, tensors in enumerate(ranks):
            of_rank = f", rank {rank}" if len(ranks) > 1 else ""
            for name, tensor in tensors.items():
                yield Weight(f"{place}{name}{of_rank}", tensor.numpy)
        source.forget()


def of_ours(source: JaxneoxCheckpoint) -> Iterable[Weight]:
    for name in source.shapes:
        yield Weight(name, partial(source.leaf, name))
