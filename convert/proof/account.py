"""Every tensor of a NeoX checkpoint with its fate, for the certificate."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convert.agreement import unused
from convert.apply import Entry
from convert.plan import Plan
from convert.readers.neox import NeoxCheckpoint
from convert.rules import neox

JOINED = "put together: each rank has a share"


def source_facts(source: NeoxCheckpoint, plan: Plan) -> dict[str, Any]:
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


def tensors(source: NeoxCheckpoint, plan: Plan, entries: list[Entry]) -> Iterator[dict[str, Any]]:
    decisions = {(d.index, d.theirs): d for d in plan.decisions}
    for entry in entries:
        decision = decisions.get((entry.index, entry.theirs))
        yield {
            "name": entry.theirs,
            "module": entry.index,
            "ranks": source.mp,
            "shape": list(entry.shape),
            "dtype": entry.dtype,
            "leaf": entry.leaf,
            "fate": decision.rule if decision else joined(source, plan, entry),
            "elements": entry.elements,
            "used": entry.used,
            "same_bits": entry.same_bits,
            "changed": entry.changed,
            "drift": asdict(decision.drift) if decision else None,
        }
    yield from left_out(source)


def joined(source: NeoxCheckpoint, plan: Plan, entry: Entry) -> str:
    rule = next(r for r in source_rule_list(plan, entry.index) if r.theirs == entry.theirs)
    said = JOINED if source.mp > 1 else "taken as it is"
    if plan.fold(rule, entry.index):
        return f"{said}, with what the rank's copy of {rule.norm} differs by"
    return said


def source_rule_list(plan: Plan, index: int) -> tuple[Any, ...]:
    return plan.rules[index] + neox.shared(plan.model)


def left_out(source: NeoxCheckpoint) -> Iterator[dict[str, Any]]:
    """Tensors that have no effect, or that are computed here."""
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
            yield {
                "name": name,
                "module": index,
                "ranks": source.mp,
                "shape": list(tensor.shape),
                "dtype": tensor.dtype.name,
                "leaf": None,
                "fate": reasons[name],
                "elements": sum(rank[name].size for rank in ranks),
                "used": 0,
                "same_bits": None,
                "changed": 0,
                "drift": None,
            }


def files_not_read(source: NeoxCheckpoint) -> list[Path]:
    read = {file.path for file in source.weight_files} | set(source.yamls)
    return sorted(p for p in source.files.folder.iterdir() if p.is_file() and p not in read)
