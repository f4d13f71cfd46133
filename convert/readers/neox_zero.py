"""The optimizer with ZeRO-1: each data-parallel rank's part of flat master weights and moments.

Rank D has a file `[bf16_]zero_pp_rank_D_mp_rank_NN_optim_states.pt`; `param_shapes` of the
`mp_rank_NN` files says what lies in the flat arrays of either group, in order. They are padded at
the end so that they divide; the last file may lack the padding of the master weights (DeeperSpeed
0.16, `runtime/zero/stage_1_and_2.py`, `runtime/bf16_optimizer.py`).
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convert.readers.neox import NeoxCheckpoint
from convert.readers.neox_files import missing_files
from convert.readers.neox_state import (
    ALONE,
    NeoxOptimizer,
    Param,
    Quantity,
    Slice,
    number,
    put,
    reading,
    take_constants,
    updates_of,
)
from convert.readers.torch_file import TorchFile
from convert.rules.neox import EMBEDDING, OLD_NAMES
from jaxneox.errors import UserError

PARTITION = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
TIED = "tied_modules.embed."
SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def partitions(folder: Path) -> dict[tuple[int, int], Path]:
    """Map (number of the mp_rank file, data-parallel rank) to files."""
    return {
        (int(m[2]), int(m[1])): path
        for path in sorted(folder.iterdir())
        if (m := PARTITION.fullmatch(path.name))
    }


def read_partitions(source: NeoxCheckpoint, there: Mapping[tuple[int, int], Path]) -> NeoxOptimizer:
    """Read the states of ZeRO-1: flat arrays in partitions."""
    folder = source.files.folder
    dp = 1 + max(part for _, part in there)
    world_sizes = [state.get("dp_world_size") for state in source.states]
    dp = max([dp, *(n for n in world_sizes if isinstance(n, int) and n < 65536)])
    before = next(iter(there.values())).name.partition("zero_pp_rank")[0]
    lacking = [
        f"{before}zero_pp_rank_{part}_mp_rank_{number:02d}_optim_states.pt"
        for number in range(len(source.files.ranks))
        for part in range(dp)
        if (number, part) not in there
    ]
    if lacking:
        raise UserError(f"{missing_files(folder, lacking)}; {ALONE}")
    optimizer = NeoxOptimizer({}, [], 0, 0, dp, 0.0)
    for at, state in enumerate(source.states):
        files = [TorchFile(there[at, part]) for part in range(dp)]
        optimizer.files += files
        with reading(files[0].path):
            _read_rank(optimizer, source, state, at % source.mp, files)
    return optimizer


def _read_rank(
    optimizer: NeoxOptimizer,
    source: NeoxCheckpoint,
    state: Mapping[str, Any],
    rank: int,
    files: list[TorchFile],
) -> None:
    path = files[0].path
    shapes = state.get("param_shapes")
    if not isinstance(shapes, list):
        raise UserError(f"{path}: {path.parent.name} has no param_shapes to read it by; {ALONE}")
    saved = [_saved(file) for file in files]
    adams = [s["base_optimizer_state"] for s in saved]
    for file, adam in zip(files, adams, strict=True):
        with reading(file.path):
            take_constants(optimizer, adam["param_groups"])
        count = updates_of(adam["state"].values(), adam["param_groups"])
        optimizer.counts[file.path.name] = count
    state_of = getattr(saved[0].get("loss_scaler"), "state", None)
    moves = saved[0].get("dynamic_loss_scale")
    if moves and isinstance(state_of, dict) and "cur_scale" in state_of:
        optimizer.scale = {name: number(state_of[name]) for name in SCALER if name in state_of}
    for group, named in enumerate(shapes):
        flat: dict[Quantity, list[Any]] = {
            "master": [s["single_partition_of_fp32_groups"][group] for s in saved],
            "exp_avg": [adam["state"][group]["exp_avg"] for adam in adams],
            "exp_avg_sq": [adam["state"][group]["exp_avg_sq"] for adam in adams],
        }
        _check_parts(files, group, flat)
        at = 0
        for param in _named(named, source):
            for quantity, parts in flat.items():
                put(optimizer, quantity, rank, param, Slice(parts, at, param.shape), path)
            at += int(np.prod(param.shape))
        for quantity, parts in flat.items():
            if sum(part.size for part in parts) < at:
                raise UserError(
                    f"{path}: {sum(part.size for part in parts)} numbers of {quantity} in group "
                    f"{group} of {len(files)} files, expected {at}; {ALONE}"
                )


def _saved(file: TorchFile) -> Mapping[str, Any]:
    content = file.content
    saved = content.get("optimizer_state_dict") if isinstance(content, Mapping) else None
    lists = ("single_partition_of_fp32_groups", "base_optimizer_state")
    if not isinstance(saved, Mapping) or any(name not in saved for name in lists):
        raise UserError(f"{file.path}: holds no ZeRO-1 partition of Adam that is known; {ALONE}")
    if isinstance(saved["base_optimizer_state"], list):
        raise UserError(
            f"{file.path}: its partition is DeepSpeed's elastic one (elastic_checkpoint), which is "
            f"not read here; {ALONE}"
        )
    return saved


def _check_parts(files: list[TorchFile], group: int, flat: Mapping[Quantity, list[Any]]) -> None:
    """Check that all parts begin with their master weights; only the last may lack its padding."""
    for file, master, *moments in list(zip(files, *flat.values(), strict=True))[:-1]:
        if any(moment.size != master.size for moment in moments):
            raise UserError(
                f"{file.path}: group {group} has {master.size} master weights and moments of "
                f"{' and '.join(str(moment.size) for moment in moments)}; {ALONE}"
            )


def _named(shapes: Mapping[str, Any], source: NeoxCheckpoint) -> Iterator[Param]:
    """Return the parameters of one group by their Sequential names."""
    for full, shape in shapes.items():
        name = str(full).removeprefix("sequential.")
        if name.startswith(TIED):
            index, rest = str(EMBEDDING), name.removeprefix(TIED)
        else:
            index, _, rest = name.partition(".")
        for old, new in OLD_NAMES.items():
            if rest.startswith(old):
                rest = new + rest.removeprefix(old)
        own = source.shards.get(int(index), [{}])[0] if index.isdecimal() else {}
        if rest not in own or own[rest].shape != tuple(shape):
            raise UserError(
                f"{source.files.folder}: its optimizer has {full} {list(shape)}, which is none of "
                f"the weights; {ALONE}"
            )
        yield Param(int(index), rest, tuple(shape))
