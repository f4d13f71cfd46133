"""The optimizer of a GPT-NeoX checkpoint: kind, partitions and counters; no moments are read."""

from collections.abc import Iterator, Mapping
from typing import Any

from convert.inspection.facts import Facts, Optimizer
from convert.readers.neox import NeoxCheckpoint
from convert.readers.neox_optimizer import open_optimizer
from convert.readers.neox_zero import PARTITION
from convert.readers.torch_file import LazyTensor
from jaxneox.errors import UserError


def find(source: NeoxCheckpoint, facts: Facts) -> tuple[Optimizer | None, str | None]:
    """Describe the optimizer, and say why a run cannot continue from it if it cannot.

    Partitions that are missing or damaged are a problem of the checkpoint too.
    """
    partitions = {
        int(m[1]) for p in source.files.folder.iterdir() if (m := PARTITION.fullmatch(p.name))
    }
    if not partitions and not any(_has_own(state) for state in source.states):
        return None, "the files hold no optimizer"
    config = _run_config(source)
    name = str(_block(config, "optimizer").get("type") or "unknown")
    stage = _block(config, "zero_optimization").get("stage")
    stage = stage if type(stage) is int else int(bool(partitions))
    if not source.yamls:  # which parameter is which is the configuration's to say
        return Optimizer(name, stage, len(partitions)), "needs the YAML: --config X.yml"
    try:
        state = open_optimizer(source)
    except UserError as error:
        facts.problems += [str(error)] if partitions else []
        return Optimizer(name, stage, len(partitions)), str(error)
    facts.notes += state.warnings
    master = "float32" if state.has_master() else None
    scale = _number((state.scale or {}).get("cur_scale"))
    optimizer = Optimizer(name, stage, state.partitions, state.count, master, scale)
    return optimizer, _reason(optimizer, source)


def _reason(optimizer: Optimizer, source: NeoxCheckpoint) -> str | None:
    if source.dtype.itemsize < 4 and optimizer.master_weights is None:
        return f"weights in {source.dtype.name}, and no float32 master weights"
    if optimizer.name.lower() not in ("adam", "adamw"):
        return f"its optimizer is {optimizer.name}, expected Adam"
    return None


def nbytes(source: NeoxCheckpoint) -> int:
    """Add up the bytes of the states in the mp_rank files."""
    return sum(_tensor_bytes(state.get("optimizer")) for state in source.states)


def _has_own(state: Mapping[str, Any]) -> bool:
    return bool(isinstance(state.get("optimizer"), Mapping) and state["optimizer"])


def _run_config(source: NeoxCheckpoint) -> Mapping[str, Any]:
    """Return the keys that DeepSpeed was configured with, or else the YAML's."""
    config = next((state.get("ds_config") for state in source.states), None)
    return config if isinstance(config, Mapping) else source.given


def _block(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    block = config.get(name)
    return block if isinstance(block, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _tensor_bytes(value: Any) -> int:
    return sum(tensor.nbytes for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[LazyTensor]:
    """Yield all tensors in mappings and lists, however deep."""
    waiting, seen = [value], set()
    while waiting:
        at = waiting.pop()
        if id(at) in seen:
            continue
        seen.add(id(at))
        if isinstance(at, LazyTensor):
            yield at
        elif isinstance(at, Mapping):
            waiting.extend(at.values())
        elif isinstance(at, list | tuple):
            waiting.extend(at)
