"""Every tensor of a Megatron-LM checkpoint with its fate, for the certificate."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from convert.fate import Fate, bit_sum, not_finite
from convert.readers.megatron import MegatronCheckpoint
from convert.rules.megatron import HEAD, QKV
from convert.rules.rule import Role, Rule


def account(
    source: MegatronCheckpoint, rule: Rule, layer: int | None, leaves: Mapping[str, np.ndarray]
) -> Fate:
    """Count where the numbers of one tensor went, after they were put there."""
    shards, drift = source.read(rule, layer), source.drift(rule, layer)
    regions = [leaves[part.leaf][part.region(source.sizes, 0)] for part in rule.parts]
    centred = source.zero_centered and rule.role is Role.NORM and rule.theirs.endswith(".weight")
    moved = regions[0].dtype == shards[0].dtype and not centred and not (drift and drift.between)
    elements, copies = sum(shard.size for shard in shards), len(shards) if drift else 1
    return Fate(
        rule.theirs,
        None,
        layer,
        len(shards),
        shards[0].shape,
        shards[0].dtype.name,
        " + ".join(part.leaf for part in rule.parts),
        fate_of(source, rule, centred, len(shards)),
        elements,
        used=sum(region.size for region in regions) * copies,
        changed=0 if moved else changed(source, rule, layer, leaves, shards),
        same_bits=sum(map(bit_sum, shards)) == sum(map(bit_sum, regions)) * copies
        if moved
        else None,
        drift=drift,
        not_finite=sum(map(not_finite, shards)),
    )


def fate_of(source: MegatronCheckpoint, rule: Rule, centred: bool, ranks: int) -> str:
    """Describe the fate of a tensor in words."""
    if rule.role is Role.SPLIT:
        fate = "put together: each rank has a share" if ranks > 1 else "taken as it is"
        if rule.theirs.startswith(QKV) and source.shards.version < 2:
            fate += f", its rows in the order of checkpoint version {source.shards.version:g}"
        if rule.theirs.startswith(QKV) and source.reading.interleaved:
            fate += ", pairs of neighbours that rope turns moved half its width apart"
        return fate
    fate = "the ranks' copies are one" if ranks > 1 else "taken as it is"
    return fate + (", 1 was added: its norm multiplies by 1 + weight" if centred else "")


def changed(
    source: MegatronCheckpoint,
    rule: Rule,
    layer: int | None,
    leaves: Mapping[str, np.ndarray],
    shards: list[np.ndarray],
) -> int:
    """Count the differences between our elements and those of each rank."""
    ours = rule.get(leaves, source.sizes, rank=0).astype(np.float64)
    theirs = [source.whole(rule, layer)] if rule.role is Role.SPLIT else shards
    return sum(int((ours != tensor.astype(np.float64)).sum()) for tensor in theirs)


def facts(source: MegatronCheckpoint) -> dict[str, Any]:
    shards = source.shards
    ranks = source.tp if shards.files.format == "torch" else "any: its tensors are whole"
    record = {
        "kind": "Megatron-LM",
        "folder": source.folder.name,
        "step": shards.step,
        "format": shards.files.format,
        "tensor-parallel ranks": ranks,
        "pipeline stages": shards.pp,
        "virtual stages of each": shards.chunks,
        "checkpoint version": shards.version,
        "dtype": source.dtype("embed.tokens").name,
    }
    if shards.others:
        record["not converted"] = ", ".join(shards.others)
    return record


def left_out(source: MegatronCheckpoint) -> Iterator[Fate]:
    """Account for the last stage's copy of a tied embedding."""
    outside = source.shards.layers[None]
    if source.model.tied_embedding and HEAD in outside[0]:
        tensor, elements = outside[0][HEAD], sum(rank[HEAD].size for rank in outside)
        yield Fate(HEAD, None, None, len(outside), tensor.shape, tensor.dtype.name, None,
                   "the last stage's copy of the embedding: equal to it", elements,
                   used=0)  # fmt: skip
