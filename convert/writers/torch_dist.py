"""Writes a folder of torch.distributed.checkpoint, piece by piece.

The layout is that of torch 2.13's FileSystemWriter (torch/distributed/checkpoint/filesystem.py):
pieces are concatenated `torch.save` files in `.distcp` files, and `.metadata` is a pickle that says
where each lies.
"""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from convert.writers.torch_save import to_torch

INDEX = ".metadata"


class DistWriter:
    """A writer of tensors' pieces and whole objects, in any order, then `finish`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, IO[bytes]] = {}
        self._places: dict[Any, Any] = {}
        self._described: dict[str, Any] = {}

    def write(
        self, file: str, name: str, shape: Sequence[int], at: Sequence[int], piece: np.ndarray
    ) -> None:
        """Write `piece`, at indices `at` of a tensor of shape `shape`, into `file`."""
        import torch
        from torch.distributed.checkpoint import metadata as m

        tensor = to_torch(np.ascontiguousarray(piece))
        if name not in self._described:
            properties = m.TensorProperties.create_from_tensor(tensor)
            self._described[name] = m.TensorStorageMetadata(properties, torch.Size(shape), [])
        sizes = torch.Size(piece.shape)
        self._described[name].chunks.append(m.ChunkStorageMetadata(torch.Size(at), sizes))
        self._append(file, m.MetadataIndex(name, at), tensor)

    def write_object(self, file: str, name: str, value: Any) -> None:
        from torch.distributed.checkpoint import metadata as m

        self._described[name] = m.BytesStorageMetadata()
        self._append(file, m.MetadataIndex(name), value)

    def finish(self) -> None:
        from torch.distributed.checkpoint import metadata as m

        for stream in self._open.values():
            stream.close()
        index = m.Metadata(self._described, storage_data=self._places, storage_meta=m.StorageMeta())
        (self.folder / INDEX).write_bytes(pickle.dumps(index))

    def _append(self, file: str, key: Any, value: Any) -> None:
        import torch
        from torch.distributed.checkpoint.filesystem import _StorageInfo

        if file not in self._open:
            self._open[file] = (self.folder / file).open("wb")
        stream, content = self._open[file], io.BytesIO()
        torch.save(value, content)
        self._places[key] = _StorageInfo(file, stream.tell(), content.tell())
        stream.write(content.getbuffer())
