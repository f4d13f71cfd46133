"""Weights that hold NaN or infinity: the run diverged, or the file is damaged."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np

from convert.fate import named, not_finite
from convert.inspection.facts import Facts, Use
from convert.parts import STACKED, layers_with
from convert.readers.hf import HfCheckpoint
from convert.readers.jaxneox import JaxneoxCheckpoint
from convert.readers.megatron import MegatronCheckpoint
from convert.readers.neox import NeoxCheckpoint
from convert.rules.neox import FIRST_BLOCK
from jaxneox.errors import UserError

MOST = 1 << 30
"""Weights of up to this many bytes are read unasked."""

CERTIFIED = ", certified"
"""The word for a conversion whose source can be compared with its target."""


class Weight(NamedTuple):
    """A weight: its name as users know it, and the function that reads it."""

    where: str
    read: Callable[[], np.ndarray]


def note_not_finite(facts: Facts, weights: Iterable[Weight], *, whatever_size: bool) -> str | None:
    """Name every weight that holds a number which is not finite, or note that none was read.

    Returns:
        Why a weight cannot be read, which is a problem of the checkpoint and no error; or None.
    """
    nbytes = facts.bytes.get("weights", 0)
    if nbytes > MOST and not whatever_size:
        facts.notes.append(
            f"not searched for NaN: {nbytes / 1e9:.1f} GB of weights; --numbers reads them"
        )
        return None
    unreadable = None
    try:
        for weight in weights:
            values = weight.read()
            if bad := not_finite(values):
                facts.not_finite.append(f"{weight.where}: {bad} of {values.size}")
    except UserError as error:
        unreadable = str(error)
        facts.problems.append(unreadable)
    if facts.not_finite:
        facts.problems.append(
            f"{facts.path}: holds numbers that are NaN or infinite, in {named(facts.not_finite)}"
        )
    return unreadable


def conversion_use(facts: Facts, command: str, what: str, why_not: str | None = None) -> Use:
    """Return a command that converts, unproved if some numbers are not finite."""
    if facts.not_finite:
        command = f"{command} --no-verify"
        what = f"{what.removesuffix(CERTIFIED)}, NaN included, unproved"
    return Use(command, what, why_not is None, why_not)


def weights_of_neox(source: NeoxCheckpoint) -> Iterable[Weight]:
    for index, ranks in source.shards.items():
        block = FIRST_BLOCK <= index < FIRST_BLOCK + source.layers
        place = f"layer {index - FIRST_BLOCK}, " if block else ""
        for rank, tensors in enumerate(ranks):
            of_rank = f", rank {rank}" if len(ranks) > 1 else ""
            for name, tensor in tensors.items():
                yield Weight(f"{place}{name}{of_rank}", tensor.numpy)
        source.forget(index)


def weights_of_hf(source: HfCheckpoint) -> Iterable[Weight]:
    """Yield a folder's tensors without saved masks, whose infinities are meant."""
    for name, tensor in source.tensors.items():
        if not name.endswith(source.family.table.BUFFERS):
            yield Weight(name, tensor.numpy)


def weights_of_megatron(source: MegatronCheckpoint) -> Iterable[Weight]:
    for layer, ranks in source.shards.layers.items():
        place = "" if layer is None else f"layer {layer}, "
        for rank, tensors in enumerate(ranks):
            of_rank = f", rank {rank}" if len(ranks) > 1 else ""
            for name, tensor in tensors.items():
                yield Weight(f"{place}{name}{of_rank}", tensor.numpy)
        source.forget()


def weights_of_ours(source: JaxneoxCheckpoint) -> Iterable[Weight]:
    """Yield our parameters, one layer at a time, so that no leaf of all layers is read whole."""
    for name in source.shapes:
        if not name.startswith(STACKED):
            yield Weight(name, partial(source.leaf, name))
            continue
        for layer in layers_with(name, source.model):
            yield Weight(f"layer {layer}, {name}", partial(source.leaf, name, layer))
