"""Writes Hugging Face's folders: safetensors in shards, each when its last tensor has come."""

import json
import shutil
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from jaxneox.errors import UserError

SHARD = 500_000_000  # bytes, unless one tensor alone has more
WHOLE = "model.safetensors"


class HfWriter:
    """A writer that takes every tensor of `tensors` in order, then `finish`; it keeps one shard."""

    def __init__(
        self,
        folder: Path,
        tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
        shard: int = SHARD,
    ) -> None:
        self.folder = folder
        self._sizes = {n: prod(shape) * dtype.itemsize for n, (shape, dtype) in tensors.items()}
        self._file = _in_shards(self._sizes, shard)
        self._waiting = dict.fromkeys(self._file.values(), 0)
        for file in self._file.values():
            self._waiting[file] += 1
        self._held: dict[str, np.ndarray] = {}

    def write(self, name: str, value: np.ndarray) -> None:
        self._held[name] = np.ascontiguousarray(value)
        file = self._file[name]
        self._waiting[file] -= 1
        if not self._waiting[file]:
            self._save(file)

    def finish(self, config: Mapping[str, Any]) -> None:
        assert not self._held, "a tensor is missing"
        if list(self._waiting) != [WHOLE]:
            total = {"total_size": sum(self._sizes.values())}
            self._json(f"{WHOLE}.index.json", {"metadata": total, "weight_map": self._file})
        self._json("config.json", config)
        for file in self._waiting:  # safetensors makes files that nobody else may read
            shutil.copymode(self.folder / "config.json", self.folder / file)

    def _save(self, file: str) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        try:
            save_file(self._held, self.folder / file, metadata={"format": "pt"})
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.folder / file}: cannot be written ({error})") from error
        self._held = {}

    def _json(self, name: str, content: Mapping[str, Any]) -> None:
        (self.folder / name).write_text(json.dumps(content, indent=2) + "\n")


def nbytes(tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> int:
    return sum(prod(shape) * dtype.itemsize for shape, dtype in tensors.values())


def _in_shards(sizes: Mapping[str, int], limit: int) -> dict[str, str]:
    """Assign tensors to shards, in order."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        return dict.fromkeys(sizes, WHOLE)
    stem, _, suffix = WHOLE.partition(".")
    return {
        name: f"{stem}-{number:05d}-of-{len(shards):05d}.{suffix}"
        for number, names in enumerate(shards, 1)
        for name in names
    }
