"""The optimizer without ZeRO: torch's own state, by number, in each rank's `mp_rank_NN` file.

Parameters that decay are numbered first, then those that do not, in the order of the modules; with
`weight-decay: 0` all are numbered in the order of the modules.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert.readers.neox import NeoxCheckpoint
from convert.readers.neox_state import (
    ALONE,
    QUANTITIES,
    NeoxOptimizer,
    Param,
    put,
    reading,
    take_constants,
    updates_of,
)
from convert.readers.torch_file import LazyTensor
from convert.rules.neox import BUFFERS, EMBEDDING, HIDDEN_AXES
from jaxneox.errors import UserError


def is_group_of(name: str) -> int:
    """Return 0 for a parameter with decay, 1 for norms, biases and a state space's A and D.

    Source: `megatron/model/utils.py`, and the marks of `megatron/model/mamba/mamba.py`.
    """
    return int("norm" in name or name.rpartition(".")[2] in ("bias", "A_log", "D"))


def read_whole(source: NeoxCheckpoint) -> NeoxOptimizer:
    """Read the states without ZeRO: each rank's own file has its parameters' states by number."""
    optimizer = NeoxOptimizer({}, [], 0, 0, 0, 0.0)
    for path, state in zip(source.files.ranks, source.states, strict=True):
        torch = state.get("optimizer")
        if not isinstance(torch, Mapping) or not isinstance(torch.get("state"), Mapping):
            raise UserError(
                f"{path}: holds no optimizer that is known here, and there are no "
                f"zero_pp_rank_D_mp_rank_NN_optim_states.pt files; {ALONE}"
            )
    with reading(source.files.ranks[0]):
        optimizer.stages = _stage_modules(source, max(1, len(source.files.ranks) // source.mp))
    for number, state in enumerate(source.states):
        path = source.files.ranks[number]
        stage, rank = divmod(number, source.mp)
        with reading(path):
            _read_rank(optimizer, source, state["optimizer"], optimizer.stages[stage], rank, path)
    return optimizer


def _read_rank(
    optimizer: NeoxOptimizer,
    source: NeoxCheckpoint,
    torch: Mapping[str, Any],
    modules: list[int],
    rank: int,
    path: Path,
) -> None:
    described = torch["param_groups"]
    take_constants(optimizer, described)
    groups = _groups(source, modules, [len(group["params"]) for group in described], path)
    numbers = [number for group in described for number in group["params"]]
    for at, param in zip(numbers, (param for group in groups for param in group), strict=True):
        own = torch["state"].get(at)
        if own is None:
            _check_unused(source, param, at, path)
            continue
        for quantity in QUANTITIES[1:]:
            tensor = own.get(quantity)
            if not isinstance(tensor, LazyTensor) or tensor.shape != param.shape:
                there = list(getattr(tensor, "shape", ())) if tensor is not None else "nothing"
                raise UserError(
                    f"{path}: {quantity} number {at} is {there}, expected {list(param.shape)} "
                    f"of module {param.module}, {param.name}; {ALONE}"
                )
            put(optimizer, quantity, rank, param, tensor, path)
    optimizer.counts[path.name] = updates_of(torch["state"].values(), described)


def _check_unused(source: NeoxCheckpoint, param: Param, at: int, path: Path) -> None:
    """Check that a parameter without a state has no effect, or has made no step."""
    second = source.model.shared_norm and param.name.startswith("post_attention_layernorm")
    if source.step and not second and not source.model.attention_dropped:
        raise UserError(
            f"{path}: has no moments number {at}, those of module {param.module}, {param.name}; "
            f"copy the file again, or {ALONE}"
        )


def _groups(
    source: NeoxCheckpoint, modules: list[int], counts: list[int], path: Path
) -> list[list[Param]]:
    """Return a stage's parameters in the order of its optimizer: by group, then by module."""
    params = [param for index in modules for param in _params(source, index)]
    groups = [[p for p in params if is_group_of(p.name) == kind] for kind in (0, 1)]
    groups = [*_by_width(source, groups[0]), groups[1]]
    without_decay = _by_width(source, params)
    if len(counts) == len(without_decay):
        groups = without_decay
    if [len(group) for group in groups] != counts:
        raise UserError(
            f"{path}: its optimizer has groups of {counts} parameters, expected "
            f"{[len(group) for group in groups]} from the weights; {ALONE}"
        )
    return groups


def _by_width(source: NeoxCheckpoint, params: list[Param]) -> list[list[Param]]:
    """Divide parameters as mup does: hidden matrices by their width's ratio, then all others."""
    widths = source.model.init.widths
    if widths is None:
        return [params]
    hidden: dict[float, list[Param]] = {}
    others = []
    for param in params:
        axes = HIDDEN_AXES.get(param.name, ())
        if widths.grows(axes):
            hidden.setdefault(widths.reads(axes), []).append(param)
        else:
            others.append(param)
    return [*hidden.values(), others]


def _stage_modules(source: NeoxCheckpoint, stages: int) -> list[list[int]]:
    """Assign consecutive modules to stages by the parameters in each stage's optimizer."""
    left = sorted(source.shards)
    per_stage: list[list[int]] = []
    for stage in range(stages):
        torch = source.states[stage * source.mp].get("optimizer")
        remaining = sum(len(group["params"]) for group in torch["param_groups"]) if torch else 0
        tied = source.model.tied_embedding and 0 < stage == stages - 1
        modules = [EMBEDDING] if tied else []
        remaining -= sum(len(_params(source, index)) for index in modules)
        while left and remaining > 0:
            remaining -= len(_params(source, left[0]))
            modules.append(left.pop(0))
        per_stage.append(modules)
    return per_stage


def _params(source: NeoxCheckpoint, index: int) -> list[Param]:
    shards = source.shards[index][0]
    return [Param(index, n, t.shape) for n, t in shards.items() if n not in BUFFERS]
