"""Every tensor of a NeoX checkpoint with its fate, for the certificate."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convert.fate import Fate
from convert.neox.consistency import unused
from convert.neox.join import layer_of
from convert.neox.plan import MergePlan
from convert.readers.neox import NeoxCheckpoint
from convert.rules import neox


def source_facts(source: NeoxCheckpoint, plan: MergePlan) -> dict[str, Any]:
    return {
        "kind": "GPT-NeoX",
        "folder": source.files.folder.name,
        "step": source.step,
        "engine": source.engine,
        "model-parallel ranks": source.mp,
        "pipeline stages": source.pp,
        "names": source.generation,
        "dtype": source.dtype.name,
        "residual": "parallel" if plan.model.parallel_residual else "sequential",
        "dtypes of ours": ", ".join(sorted({d.name for d in plan.dtypes.values()})),
    }


def left_out(source: NeoxCheckpoint) -> Iterator[Fate]:
    """Account for tensors that have no effect, or that are computed here."""
    reasons = dict.fromkeys(unused(source.model), "not used: gpt_j_tied has one norm for both")
    reasons |= dict.fromkeys(neox.BUFFERS, "not a weight: equal to what is computed here")
    reasons |= {
        rule.theirs: "the table that all blocks share: equal to the first block's"
        for rule in neox.shared(source.model)
    }
    for index, ranks in source.shards.items():
        for name, tensor in ranks[0].items():
            first = index == neox.FIRST_BLOCK and "share" in reasons.get(name, "")
            if name not in reasons or first:
                continue
            elements = sum(rank[name].size for rank in ranks)
            yield Fate(name, index, layer_of(index, source.model), source.mp, tensor.shape,
                       tensor.dtype.name, None, reasons[name], elements, used=0)  # fmt: skip


def files_not_read(source: NeoxCheckpoint) -> list[Path]:
    read = {file.path for file in source.weight_files} | set(source.yamls)
    return sorted(p for p in source.files.folder.iterdir() if p.is_file() and p not in read)
