"""Writes Megatron-LM's own files, in either format, such that it loads weights from them.

Its requirements were tried on Megatron-LM itself: for `torch` an argparse.Namespace with
thirteen fields or more, and no `_extra_state`; for `torch_dist` what plain
torch.distributed.checkpoint writes, common.pt, metadata.json, and for every layer an empty
`_extra_state` object of each of its four matrices.
"""

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convert.megatron.grid import MegatronGrid
from convert.parts import Part
from convert.readers.megatron_files import COMMON, STATE, TRACKER, rank_folder
from convert.rules.megatron import FC1, FC2, HEAD, PROJ, QKV, WORDS
from convert.writers.torch_dist import DistWriter
from convert.writers.torch_save import DiskArrays, save
from jaxneox.config.schema import ModelConfig

Tensors = Mapping[str, np.ndarray]

VERSION = 3.0
FORMAT = {"sharded_backend": "torch_dist", "sharded_backend_version": 1,
          "common_backend": "torch", "common_backend_version": 1}  # fmt: skip

FUSED = {"input_layernorm.": f"{QKV}.layer_norm_", "pre_mlp_layernorm.": f"{FC1}.layer_norm_"}
"""Names of norms in Transformer Engine, and in torch_dist whatever the implementation."""


def fused(name: str) -> str:
    for plain, theirs in FUSED.items():
        if name.startswith(plain):
            return theirs + name.removeprefix(plain)
    return name


def folder_name(step: int) -> str:
    """Return the step's folder: `release` for step 0, which Megatron does not take."""
    return f"iter_{step:07d}" if step else "release"


class LegacyWriter:
    """A writer of `run/iter_NNNNNNN/mp_rank_TT[_PPP]/model_optim_rng.pt`.

    Layers come in any order, then `finish`. A rank's weights wait on the disk until its file is
    written, so that they need no memory.
    """

    def __init__(
        self, run: Path, step: int, model: ModelConfig, grid: MegatronGrid, *, te_names: bool
    ) -> None:
        self.run, self.folder, self._step = run, run / folder_name(step), step
        self._grid, self._te, self._tied = grid, te_names, model.tied_embedding
        self._each = model.num_layers // (grid.pp * grid.chunks)
        self.folder.mkdir(parents=True)
        self._models = {
            (p, t, v): DiskArrays(self.folder / f"waiting.{p}.{t}.{v}")
            for p in range(grid.pp)
            for t in range(grid.tp)
            for v in range(grid.chunks)
        }

    def write(self, part: Part, rank: int, tensors: Tensors) -> None:
        """Write one rank's tensors of a part."""
        if not isinstance(part, int):
            self._write_outside(part, rank, tensors)
            return
        chunk, local = divmod(part, self._each)
        v, p = divmod(chunk, self._grid.pp)
        for name, tensor in tensors.items():
            name = fused(name) if self._te else name
            self._keep((p, rank, v), f"decoder.layers.{local}.{name}", tensor)

    def finish(self, args: Mapping[str, Any]) -> None:
        grid = self._grid
        for p in range(grid.pp):
            for t in range(grid.tp):
                path = self.folder / rank_folder(t, p, grid.pp > 1) / STATE
                path.parent.mkdir()
                save(self._state(p, t, args), path)
                for v in range(grid.chunks):
                    self._models[p, t, v].remove()
        (self.run / TRACKER).write_text(self.folder.name.removeprefix("iter_").lstrip("0"))

    def _write_outside(self, part: Part, rank: int, tensors: Tensors) -> None:
        """Write the embedding in the first stage, the head in the last, and a tied one in both."""
        last = (self._grid.pp - 1, rank, self._grid.chunks - 1)
        for name, tensor in tensors.items():
            self._keep((0, rank, 0) if part == "embedding" else last, name, tensor)
        if part == "embedding" and self._tied and self._grid.pp > 1:
            self._keep(last, HEAD, tensors[WORDS])

    def _keep(self, where: tuple[int, int, int], name: str, tensor: np.ndarray) -> None:
        self._models[where].add(name, tensor)

    def _state(self, p: int, t: int, args: Mapping[str, Any]) -> dict[str, Any]:
        chunks = self._grid.chunks
        models = {f"model{v}" if chunks > 1 else "model": self._models[p, t, v].arrays()
                  for v in range(chunks)}  # fmt: skip
        return common_state(self._step, args) | models


class TorchDistWriter:
    """A writer of `run/iter_NNNNNNN` in torch_dist: layers are stacked on a first axis.

    Each stage is one file, and each layer one piece; any tensor-parallel size reads them.
    """

    def __init__(self, run: Path, step: int, model: ModelConfig, grid: MegatronGrid) -> None:
        self.run, self.folder, self._step = run, run / folder_name(step), step
        self.folder.mkdir(parents=True)
        self._layers, self._each = model.num_layers, model.num_layers // grid.pp
        self._writer = DistWriter(self.folder)
        self._last = f"__{grid.pp - 1}_0.distcp"

    def write(self, part: Part, tensors: Tensors) -> None:
        """Write whole tensors of a part."""
        if not isinstance(part, int):
            file = "__0_0.distcp" if part == "embedding" else self._last
            for name, tensor in tensors.items():
                at = [0] * tensor.ndim
                self._writer.write(file, name, tensor.shape, at, tensor)
            return
        L, file = self._layers, f"__{part // self._each}_0.distcp"
        for name, tensor in tensors.items():
            at = [part, *[0] * tensor.ndim]
            name = f"decoder.layers.{fused(name)}"
            self._writer.write(file, name, (L, *tensor.shape), at, tensor[None])
        for name in (QKV, PROJ, FC1, FC2):
            key = f"decoder.layers.{name}._extra_state/shard_{part}_{L}"
            self._writer.write_object(file, key, [None])

    def finish(self, args: Mapping[str, Any]) -> None:
        self._writer.finish()
        save(common_state(self._step, args), self.folder / COMMON)
        (self.folder / "metadata.json").write_text(json.dumps(FORMAT))
        (self.run / TRACKER).write_text(self.folder.name.removeprefix("iter_").lstrip("0"))


def common_state(step: int, args: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "args": Namespace(**args),
        "checkpoint_version": VERSION,
        "iteration": step,
        "num_floating_point_operations_so_far": 0,
    }
