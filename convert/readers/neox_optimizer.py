"""Adam's state in a GPT-NeoX checkpoint, tensor by tensor as the weights are.

DeepSpeed keeps it in one of two ways. Without ZeRO the `mp_rank_NN` files hold torch's own state of
the optimizer, numbered over the parameters that decay, then over those that do not, in the order
of the modules. With ZeRO-1 each data-parallel rank D has a file
`[bf16_]zero_pp_rank_D_mp_rank_NN_optim_states.pt` with its part of the flat master weights and
moments of either group; `param_shapes` of the `mp_rank_NN` files says what lies in them, in order
(DeeperSpeed 0.16, `runtime/zero/stage_1_and_2.py`, `runtime/bf16_optimizer.py`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from convert.readers.neox import NeoxCheckpoint
from convert.readers.neox_files import missing_files
from convert.readers.torch_file import LazyTensor, TorchFile
from convert.rules.neox import BUFFERS, EMBEDDING, OLD_NAMES
from jaxneox.errors import UserError

Quantity = Literal["master", "exp_avg", "exp_avg_sq"]
QUANTITIES: tuple[Quantity, ...] = ("master", "exp_avg", "exp_avg_sq")
PARTITION = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
TIED = "tied_modules.embed."
ALONE = "the weights alone convert without --optimizer"


class Numbers(Protocol):
    """Something that is an array when it is asked."""

    def numpy(self) -> np.ndarray: ...


class Param(NamedTuple):
    """A parameter by the Sequential index of its module and its name there (HEAD's)."""

    module: int
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Slice:
    """A part of a flat array that lies in several files."""

    parts: list[LazyTensor]
    start: int
    shape: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        found, at = [], 0
        end = self.start + int(np.prod(self.shape))
        for part in self.parts:
            first, last = max(self.start - at, 0), min(end - at, part.size)
            if first < last:
                found.append(part.numpy()[first:last])
            at += part.size
        flat = found[0] if len(found) == 1 else np.concatenate(found)
        return flat.reshape(self.shape)


@dataclass
class NeoxOptimizer:
    """Raises UserError for files that are missing, damaged, or of another step than the weights.

    Attributes:
        tensors: by (quantity, rank, index, name); no master where the weights are in float32.
        files: what was read besides the weights' files.
        count: the updates that Adam has made.
        position: of the learning rate's schedule.
        scale: of the loss, where it moves: DeepSpeed's `cur_scale` and its like.
        partitions: data-parallel parts; 0 without ZeRO.
        clipping: by global norm, as DeepSpeed was told; 0 is none.
    """

    tensors: dict[tuple[Quantity, int, int, str], Numbers]
    files: list[TorchFile]
    count: int
    position: int
    partitions: int
    clipping: float
    scale: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)

    def has_master(self) -> bool:
        return any(quantity == "master" for quantity, *_ in self.tensors)

    def ranks(self, quantity: Quantity, shards: Mapping[str, Any], index: int, mp: int) -> Any:
        """One module's tensors of a quantity, by rank; zeros for what has never had a gradient."""
        return [
            {
                name: self._array(quantity, rank, index, name, tensor)
                for name, tensor in shards.items()
                if name not in BUFFERS
            }
            for rank in range(mp)
        ]

    def _array(
        self, quantity: Quantity, rank: int, index: int, name: str, tensor: LazyTensor
    ) -> np.ndarray:
        found = self.tensors.get((quantity, rank, index, name))
        return np.zeros(tensor.shape, np.float32) if found is None else found.numpy()


def open_optimizer(source: NeoxCheckpoint) -> NeoxOptimizer:
    """The state of all ranks and stages."""
    folder = source.files.folder
    if not source.files.ranks:
        raise missing_files(folder, ["mp_rank_00_model_states.pt"])
    there = {
        (int(m[2]), int(m[1])): path
        for path in sorted(folder.iterdir())
        if (m := PARTITION.fullmatch(path.name))
    }
    found = _partitioned(source, there) if there else _whole(source)
    first = source.states[0]
    schedule = first.get("lr_scheduler")
    position = schedule.get("num_iters") if isinstance(schedule, Mapping) else None
    found.position = position if isinstance(position, int) else source.step
    told = first.get("ds_config")
    clipping = told.get("gradient_clipping", 0.0) if isinstance(told, Mapping) else None
    if clipping is None:
        clipping = float(source.given.get("gradient_clipping", 1.0))
    found.clipping = float(clipping)
    return found


def is_group_of(name: str) -> int:
    """0 decays, 1 does not: norms, and whatever is called a bias (`megatron/model/utils.py`)."""
    return int("norm" in name or name.rpartition(".")[2] == "bias")


def _whole(source: NeoxCheckpoint) -> NeoxOptimizer:
    """Without ZeRO: each rank's own file has its parameters' states by number."""
    found = NeoxOptimizer({}, [], 0, 0, 0, 0.0)
    groups: list[list[Param]] = []
    for number, state in enumerate(source.states):
        path = source.files.ranks[number]
        stage, rank = divmod(number, source.mp)
        torch = state.get("optimizer")
        if not isinstance(torch, Mapping) or not isinstance(torch.get("state"), Mapping):
            raise UserError(
                f"{path}: holds no optimizer that is known here, and there are no "
                f"zero_pp_rank_D_mp_rank_NN_optim_states.pt files; {ALONE}"
            )
        counts = [len(group["params"]) for group in torch["param_groups"]]
        if rank == 0:
            groups = _groups(source, stage, counts, path)
        order = [param for group in groups for param in group]
        for at, param in enumerate(order):
            own = torch["state"].get(at)
            if own is None:
                continue  # no gradient ever
            for quantity in QUANTITIES[1:]:
                tensor = own.get(quantity)
                if not isinstance(tensor, LazyTensor) or tensor.shape != param.shape:
                    there = list(getattr(tensor, "shape", ())) if tensor is not None else "nothing"
                    raise UserError(
                        f"{path}: {quantity} number {at} is {there}, expected {list(param.shape)} "
                        f"of module {param.module}, {param.name}; {ALONE}"
                    )
                _put(found, quantity, rank, param, tensor, path)
            found.count = max(found.count, _integer(own.get("step")))
    return found


def _groups(source: NeoxCheckpoint, stage: int, counts: list[int], path: Path) -> list[list[Param]]:
    """The parameters of a stage in the order of its optimizer: by group, then by module."""
    stages = max(1, len(source.files.ranks) // source.mp)
    modules = _stage_modules(source, stages)[stage]
    params = [param for index in modules for param in _params(source, index)]
    groups = [[p for p in params if is_group_of(p.name) == kind] for kind in (0, 1)]
    if len(counts) == 1:
        groups = [params]
    if [len(group) for group in groups] != counts:
        raise UserError(
            f"{path}: its optimizer has groups of {counts} parameters, expected "
            f"{[len(group) for group in groups]} from the weights; {ALONE}"
        )
    return groups


def _stage_modules(source: NeoxCheckpoint, stages: int) -> list[list[int]]:
    """Consecutive modules, as many as each stage's optimizer has parameters of."""
    left = sorted(source.shards)
    found: list[list[int]] = []
    for stage in range(stages):
        torch = source.states[stage * source.mp].get("optimizer")
        wanted = sum(len(group["params"]) for group in torch["param_groups"]) if torch else 0
        tied = source.model.tied_embedding and 0 < stage == stages - 1
        modules = [EMBEDDING] if tied else []
        wanted -= sum(len(_params(source, index)) for index in modules)
        while left and wanted > 0:
            wanted -= len(_params(source, left[0]))
            modules.append(left.pop(0))
        found.append(modules)
    return found


def _params(source: NeoxCheckpoint, index: int) -> list[Param]:
    shards = source.shards[index][0]
    return [Param(index, n, t.shape) for n, t in shards.items() if n not in BUFFERS]


def _partitioned(source: NeoxCheckpoint, there: Mapping[tuple[int, int], Path]) -> NeoxOptimizer:
    """With ZeRO-1: flat arrays in parts."""
    folder = source.files.folder
    dp = 1 + max(part for _, part in there)
    said = [state.get("dp_world_size") for state in source.states]
    dp = max([dp, *(n for n in said if isinstance(n, int) and n < 65536)])
    before = next(iter(there.values())).name.partition("zero_pp_rank")[0]
    lacking = [
        f"{before}zero_pp_rank_{part}_mp_rank_{number:02d}_optim_states.pt"
        for number in range(len(source.files.ranks))
        for part in range(dp)
        if (number, part) not in there
    ]
    if lacking:
        raise UserError(f"{missing_files(folder, lacking)}; {ALONE}")
    found = NeoxOptimizer({}, [], 0, 0, dp, 0.0)
    for number, state in enumerate(source.states):
        files = [TorchFile(there[number, part]) for part in range(dp)]
        found.files += files
        _read_partitions(found, source, state, number % source.mp, files)
    return found


def _read_partitions(
    found: NeoxOptimizer,
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
    scaler = saved[0].get("loss_scaler")
    state_of = getattr(scaler, "state", None)
    if isinstance(state_of, dict) and saved[0].get("dynamic_loss_scale"):
        found.scale = state_of
    for group, named in enumerate(shapes):
        flat: dict[Quantity, list[Any]] = {
            "master": [s["single_partition_of_fp32_groups"][group] for s in saved],
            "exp_avg": [s["base_optimizer_state"]["state"][group]["exp_avg"] for s in saved],
            "exp_avg_sq": [s["base_optimizer_state"]["state"][group]["exp_avg_sq"] for s in saved],
        }
        counts = [_integer(s["base_optimizer_state"]["state"][group]["step"]) for s in saved]
        found.count = max(found.count, *counts)
        at = 0
        for param in _named(named, source):
            for quantity, parts in flat.items():
                _put(found, quantity, rank, param, Slice(parts, at, param.shape), path)
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
    return saved


def _named(shapes: Mapping[str, Any], source: NeoxCheckpoint) -> Iterator[Param]:
    """The parameters of one group, by their Sequential names."""
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


def _put(
    found: NeoxOptimizer, quantity: Quantity, rank: int, param: Param, value: Numbers, path: Path
) -> None:
    """A tied embedding is there twice, in the first stage and in the last."""
    key = (quantity, rank, param.module, param.name)
    other = found.tensors.setdefault(key, value)
    if other is not value and not np.array_equal(other.numpy(), value.numpy()):
        found.warnings.append(
            f"{path.name}: {quantity} of the tied {param.name} is another one than the first "
            "stage's, which is taken"
        )


def _integer(value: Any) -> int:
    if isinstance(value, LazyTensor):
        value = value.numpy().item()
    return int(value) if isinstance(value, int | float) else 0
