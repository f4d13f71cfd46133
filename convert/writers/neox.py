"""Writes GPT-NeoX's own files, which its pipeline engine and its Sequential engine load.

Read from NeoX HEAD ea7aefd8 (megatron/checkpointing.py) and DeepSpeed 0.16.5 (runtime/engine.py):
`args` is compared with the YAML's, `mp_world_size` has to be the number of mp_rank files, and the
tensors' names have to match exactly.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml

from convert.readers.neox import PREFIX
from convert.readers.neox_files import layer_file, rank_file
from convert.rules.neox import OLD_NAMES

Tensors = Mapping[str, np.ndarray]


class TrainingContent(Protocol):
    """The training state in the mp_rank files of a run that continues."""

    def state(self, stage: int, rank: int) -> dict[str, Any]:
        """Return `optimizer`, `lr_scheduler` and the counters of one file."""
        ...

    def files(self, number: int, stage: int, rank: int) -> dict[str, Any]:
        """Return by name the content of the files that go with the mp_rank file of this number."""
        ...


NEW_NAMES = {new: old for old, new in OLD_NAMES.items()}


class NeoxWriter:
    """A writer of `folder/global_stepN`: modules in any order, then `finish`.

    `pp` is the number of stages, or 0 for the Sequential engine, which has all modules of a rank in
    one file.
    """

    def __init__(self, folder: Path, step: int, *, mp: int, pp: int, old_names: bool) -> None:
        self.run, self.folder = folder, folder / f"global_step{step}"
        self._step, self._mp, self._pp, self._old = step, mp, pp, old_names
        (self.folder / "configs").mkdir(parents=True)
        self._modules: list[dict[str, np.ndarray]] = [{} for _ in range(mp)]

    def write(self, index: int, rank: int, tensors: Tensors) -> None:
        named = {self._name(name): tensor for name, tensor in tensors.items()}
        if self._pp:
            name = layer_file(index, rank)
            _save(named, self.folder / name)
        else:
            self._modules[rank] |= {
                f"{PREFIX}{index}.{name}": self._kept(f"{rank}.{index}.{name}", tensor)
                for name, tensor in named.items()
            }

    def finish(
        self,
        keys: Mapping[str, Any],
        args: Mapping[str, Any],
        training: TrainingContent | None = None,
    ) -> None:
        for number in range(self._mp * max(1, self._pp)):
            module = None if self._pp else self._modules[number]
            path = self.folder / rank_file(number)
            state = self._state(module, args)
            if training is not None:
                stage, rank = divmod(number, self._mp)
                state |= training.state(stage, rank)
                for name, content in training.files(number, stage, rank).items():
                    _save(content, self.folder / name)
            _save(state, path)
            for file in self.folder.glob(f"{number}.*.npy"):
                file.unlink()
        text = yaml.safe_dump(
            {name.replace("_", "-"): value for name, value in keys.items()}, sort_keys=False
        )
        for place in (self.run, self.folder / "configs"):
            (place / "neox_config.yml").write_text(text)
        (self.run / "latest").write_text(self.folder.name)

    def _state(self, module: Tensors | None, args: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that DeepSpeed and NeoX read when they load weights alone."""
        return {
            "module": module,
            "buffer_names": [n for n in module or () if n.endswith(("inv_freq", "slopes"))],
            "optimizer": None,
            "param_shapes": None,
            "lr_scheduler": None,
            "sparse_tensor_module_names": set(),
            "skipped_steps": 0,
            "global_steps": self._step,
            "global_samples": 0,
            "dp_world_size": 1,
            "mp_world_size": self._mp * max(1, self._pp),
            "ds_config": {},
            "ds_version": "0.16.5",
            "iteration": self._step,
            "args": dict(args),
        }

    def _kept(self, name: str, tensor: np.ndarray) -> np.ndarray:
        """Keep a tensor on the disk until its rank's file is written, to save memory."""
        path = self.folder / f"{name}.npy"
        kept = np.memmap(path, tensor.dtype, "w+", shape=tensor.shape)
        kept[...] = tensor
        kept.flush()
        return kept

    def _name(self, name: str) -> str:
        if not self._old:
            return name
        return re.sub("|".join(map(re.escape, NEW_NAMES)), lambda m: NEW_NAMES[m[0]], name)


def _save(content: Any, path: Path) -> None:
    import torch

    def to_torch(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: to_torch(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [to_torch(inner) for inner in value]
        if not isinstance(value, np.ndarray):
            return value
        if value.dtype.name == "bfloat16":
            return torch.from_numpy(value.view(np.uint16)).view(torch.bfloat16)
        return torch.from_numpy(value)

    torch.save(to_torch(content), path)
