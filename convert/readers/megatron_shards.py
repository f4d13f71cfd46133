"""A Megatron-LM checkpoint of either format as named shards, by layer and tensor-parallel rank."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from convert.readers.megatron_files import COMMON, MegatronFiles, require
from convert.readers.megatron_names import NO_WEIGHTS, flat, named
from convert.readers.pickles import Inert
from convert.readers.torch_dist import DistFolder
from convert.readers.torch_file import TorchFile
from jaxneox.errors import UserError, listed


class ShardTensor(Protocol):
    """The interface of one rank's tensor, whichever file it lies in."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def size(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def numpy(self) -> np.ndarray: ...


Ranks = list[dict[str, ShardTensor]]
Order = list[tuple[str, int | None]]
"""Parameters in order: (name, layer)."""

OTHER_STATES = ("optimizer.", "optimizer/", "rng_state", "common_state", "rerun_state_machine",
                "opt_param_scheduler", "chained_", "content_metadata")  # fmt: skip
"""Prefixes of the names of torch_dist's values that are not part of the model."""

FOREIGN = {
    "experts": "a mixture of experts",
    "router": "a mixture of experts",
    "mixer.": "a Mamba model",
    "q_layernorm": "a model that normalises queries and keys, each by a norm of its own",
    "k_layernorm": "a model that normalises queries and keys, each by a norm of its own",
    "linear_kv_": "a model with latent attention",
    "linear_q_": "a model with latent attention",
    "mtp.": "a model that predicts several tokens at once",
    "inter_attention": "an encoder and decoder",
    "cross_attention": "an encoder and decoder",
    "tokentype_embeddings": "a BERT",
    "lm_head.": "a BERT",
    "pooler": "a BERT",
}


@dataclass
class Shards:
    """The shards of a checkpoint.

    Attributes:
        layers: by layer, with None for tensors outside layers; each is a list by rank.
        args: the arguments that Megatron was started with, as the checkpoint records them.
        version: the version of the order of queries, keys and values: 0, 1.0, 2.0 or 3.0.
        pp: the number of pipeline stages.
        chunks: the number of virtual stages of each.
        opened: every file that weights are read from.
        others: what the checkpoint has beside the weights, one word each.
        order: the parameters of each (stage, chunk), in their module's order.
    """

    files: MegatronFiles
    args: dict[str, Any]
    version: float
    iteration: int
    layers: dict[int | None, Ranks]
    pp: int
    chunks: int
    opened: list[Path | TorchFile]
    others: list[str] = field(default_factory=list)
    order: dict[tuple[int, int], Order] = field(default_factory=dict)

    @property
    def tp(self) -> int:
        """The number of ranks with shards here: 1 for torch_dist, which keeps whole tensors."""
        return len(self.layers[None])

    @property
    def step(self) -> int:
        return self.iteration if self.files.step is None else self.files.step

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for ranks in self.layers.values() for r in ranks for t in r.values())


def open_shards(files: MegatronFiles) -> Shards:
    shards = _legacy(files) if files.format == "torch" else _dist(files)
    steps = {shards.iteration, *([] if files.step is None else [files.step])}
    if len(steps) > 1:
        raise UserError(
            f"{files.folder}: its files say that they are of step {shards.iteration}; copy the "
            "whole checkpoint again"
        )
    return shards


def _legacy(files: MegatronFiles) -> Shards:
    """Number the layers of all stages, which each stage and virtual stage numbers from 0."""
    opened = [[TorchFile(path) for path in stage] for stage in files.ranks]
    states = [[_mapping(file) for file in stage] for stage in opened]
    first = states[0][0]
    _check_ranks(files, states)
    chunks = [
        [[_chunk(state, v, file.path) for state, file in zip(ranks, stage, strict=True)]
         for ranks, stage in zip(states, opened, strict=True)]
        for v in range(_chunks(first))
    ]  # fmt: skip
    layers: dict[int | None, Ranks] = {None: [{} for _ in states[0]]}
    order = {}
    for v, chunk in enumerate(chunks):  # of layers first those of all first chunks: v * pp + p
        for p, stage in enumerate(chunk):
            order[p, v] = _add_stage(stage, layers, len(layers) - 1, files.folder)
    return Shards(
        files,
        _args(first.get("args")),
        _number(first.get("checkpoint_version", 0)),
        _step(first, files),
        layers,
        len(states),
        len(chunks),
        [file for stage in opened for file in stage],
        [key for key in ("optimizer", "rng_state") if first.get(key)],
        order,
    )


def _add_stage(
    stage: list[Any], layers: dict[int | None, Ranks], before: int, folder: Path
) -> Order:
    """Add a stage to `layers`, after the first `before` of them.

    Returns:
        The parameters that were added, in a rank's order.
    """
    for rank, tensors in enumerate(stage):
        for name, layer, tensor in tensors:
            at = None if layer is None else before + layer
            ranks = layers.setdefault(at, [{} for _ in stage])
            if name in ranks[rank]:
                raise UserError(f"{folder}: {name} is there twice (layer {at}, rank {rank})")
            ranks[rank][name] = tensor
    return [(name, None if layer is None else before + layer) for name, layer, _ in stage[0]]


def _chunk(
    state: Mapping[str, Any], v: int, path: Path
) -> list[tuple[str, int | None, ShardTensor]]:
    model = state.get("model" if "model" in state else f"model{v}")
    if not isinstance(model, Mapping):
        raise UserError(f"{path}: holds no model, but {listed(state)}")
    tensors = []
    for key, value in flat(model):
        if key.endswith(NO_WEIGHTS):
            continue
        name, layer, inside = named(key)
        if not hasattr(value, "numpy") or (inside and layer is None):
            raise UserError(f"{path}: {key} is {type(value).__name__}, expected a tensor")
        _refuse_far(key, layer or 0, path)
        refuse_foreign(key, path)
        tensors.append((name, layer, value))
    return tensors


def _chunks(state: Mapping[str, Any]) -> int:
    """Return the number of virtual pipeline stages of each rank."""
    return 1 if "model" in state else max(1, sum(f"model{v}" in state for v in range(len(state))))


def _dist(files: MegatronFiles) -> Shards:
    folder = DistFolder(files.folder)
    common, paths = common_state(folder)
    layers: dict[int | None, Ranks] = {None: [{}]}
    for key, tensor in folder.tensors.items():
        if key.startswith(OTHER_STATES) or key.endswith(NO_WEIGHTS):
            continue
        refuse_foreign(key, files.folder)
        name, layer, inside = named(key)
        if inside and layer is None:  # all layers in one tensor
            count = tensor.shape[0] if tensor.shape else 0
            _refuse_far(key, count, files.folder)
            parts: list[tuple[int | None, ShardTensor]] = [
                (i, tensor.part(i)) for i in range(count)
            ]
        else:
            _refuse_far(key, layer or 0, files.folder)
            parts = [(layer, tensor)]
        for at, part in parts:
            (tensors,) = layers.setdefault(at, [{}])
            if name in tensors:
                raise UserError(f"{files.folder}: {name} is there twice (layer {at})")
            tensors[name] = part
    args = _args(common.get("args"))
    others = {key.partition(".")[0].partition("/")[0] for key in (*folder.tensors, *folder.objects)}
    return Shards(
        files,
        args,
        _number(common.get("checkpoint_version", 3.0)),  # the format is younger than all orders
        _step(common, files),
        layers,
        args.get("pipeline_model_parallel_size") or 1,
        1,
        [*folder.paths, *paths],
        sorted(others & {"optimizer", "rng_state"}),
    )


def common_state(folder: DistFolder) -> tuple[Mapping[str, Any], list[Path]]:
    """Read the state that is not sharded: since 2026-07 an object, before that a file."""
    for name, place in folder.objects.items():
        if name.startswith("common_state/"):
            content = place.open().content
            if isinstance(content, list) and len(content) == 1 and isinstance(content[0], Mapping):
                return content[0], []
            raise UserError(f"{place.path}: {name} holds no state")
    path = folder.folder / COMMON
    if not path.is_file():
        raise UserError(f"{folder.folder}: missing {COMMON}; copy the whole checkpoint")
    return _mapping(TorchFile(path)), [path]


def _check_ranks(files: MegatronFiles, states: list[list[dict[str, Any]]]) -> None:
    """Raise a UserError if the last ranks are missing, or the files are of several steps."""
    args = _args(states[0][0].get("args"))
    tp, pp = (args.get(f"{kind}_model_parallel_size") or 1 for kind in ("tensor", "pipeline"))
    if isinstance(tp, int) and isinstance(pp, int) and tp * pp < 1 << 16:
        here = {path.parent.name for stage in files.ranks for path in stage}
        form = "mp_rank_{:02d}_{:03d}" if len(files.ranks) > 1 or pp > 1 else "mp_rank_{:02d}"
        expected = {form.format(t, p) for t in range(tp) for p in range(pp)}
        stated = files.ranks[0][0].name
        require(files.folder / name / stated for name in sorted(expected - here))
    steps = {
        path.parent.name: state.get("iteration")
        for paths, stage in zip(files.ranks, states, strict=True)
        for path, state in zip(paths, stage, strict=True)
    }
    if len(set(steps.values())) > 1:
        listed = ", ".join(f"{name} of step {step}" for name, step in steps.items())
        raise UserError(f"{files.folder}: its files are of different steps: {listed}")


def _refuse_far(key: str, layer: int, where: Path) -> None:
    """Refuse an impossibly large layer number, which would take memory for nothing."""
    if layer > 1 << 20:
        raise UserError(f"{where}: {key}: a layer of that number is not expected")


def refuse_foreign(name: str, where: Path) -> None:
    for sign, kind in FOREIGN.items():
        if sign in name:
            raise UserError(
                f"{where}: is {kind}: it has {name}; only dense GPT models without it are supported"
            )


def _mapping(file: TorchFile) -> dict[str, Any]:
    if not isinstance(file.content, Mapping):
        raise UserError(f"{file.path}: holds {type(file.content).__name__}, expected a checkpoint")
    return dict(file.content)


def _args(args: Any) -> dict[str, Any]:
    """Read an argparse.Namespace as a mapping; values that are not plain stay unknown."""
    state = args.state if isinstance(args, Inert) else args
    return dict(state) if isinstance(state, Mapping) else {}


def _number(version: Any) -> float:
    if type(version) not in (int, float) or version not in (0, 1, 2, 3):
        raise UserError(f"checkpoint_version {version!r} is unknown; there are 0, 1.0, 2.0 and 3.0")
    return float(version)


def _step(state: Mapping[str, Any], files: MegatronFiles) -> int:
    """Return the step; a `release` counts as step 0, whatever number or word it has."""
    iteration = state.get("iteration")
    if type(iteration) is int and iteration >= 0:
        return iteration
    return files.step or 0
