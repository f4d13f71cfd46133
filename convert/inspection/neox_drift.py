"""The drift of the ranks' copies of tensors that NeoX does not split."""

from collections.abc import Iterator
from math import isnan
from typing import NamedTuple

import numpy as np

from convert.fate import drift_of
from convert.inspection.facts import Facts, LargestDrift
from convert.readers.neox import NeoxCheckpoint
from convert.readers.torch_file import LazyTensor
from convert.rules.neox import FIRST_BLOCK

MOST = 1 << 30  # bytes of copies that are read without being asked to

AFTER_THE_SUM = ("attention.dense.bias", "mlp.linear2.bias")
"""The biases of the two row-parallel matrices, of which every rank has a copy."""


class Copies(NamedTuple):
    """The copies that all ranks have of one tensor."""

    module: int
    name: str
    ranks: list[LazyTensor]


def is_copy(name: str) -> bool:
    """Tell by NeoX's name whether every rank has the whole tensor.

    Such tensors are norms, the biases that are added after the sum over ranks, and learned
    positions. Norms of queries and keys are split by heads.
    """
    if name.startswith("attention.qk_layernorm"):
        return name.endswith(".g")
    return "norm" in name or name in AFTER_THE_SUM or name == "position_embeddings.weight"


def copies(source: NeoxCheckpoint) -> Iterator[Copies]:
    for index, ranks in source.shards.items():
        for name in ranks[0]:
            if is_copy(name) and all(name in rank for rank in ranks):
                yield Copies(index, name, [rank[name] for rank in ranks])


def find(source: NeoxCheckpoint, facts: Facts, whatever_size: bool) -> LargestDrift | None:
    """Measure the drift; return None for one rank, and, with a note, for copies too large."""
    if source.mp == 1:
        return None
    replicated = list(copies(source))
    nbytes = sum(tensor.nbytes for copy in replicated for tensor in copy.ranks)
    if nbytes > MOST and not whatever_size:
        facts.notes.append(
            f"drift not measured: {nbytes / 1e9:.1f} GB of copies; --drift reads them"
        )
        return None
    worst, where, differing = drift_of(np.zeros((1, 1))), None, 0
    for copy in replicated:
        drift = drift_of(np.stack([t.numpy().astype(np.float64).ravel() for t in copy.ranks]))
        differing += drift.between != 0  # also where they are no numbers
        if not drift.between <= worst.between and not isnan(worst.between):
            worst, where = drift, copy
        source.forget(copy.module)
    return LargestDrift(
        largest=worst.between,
        typical=worst.of,
        tensor=where.name if where else None,
        layer=_layer(where, source) if where else None,
        differing=differing,
        copied=len(replicated),
    )


def _layer(copy: Copies, source: NeoxCheckpoint) -> int | None:
    layer = copy.module - FIRST_BLOCK
    return layer if 0 <= layer < source.layers else None
