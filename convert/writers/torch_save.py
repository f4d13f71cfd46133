"""`torch.save` for numpy arrays of every supported type."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def save(content: Any, path: Path) -> None:
    """Save content; arrays that map a file are read while they are written, to save memory."""
    import torch

    torch.save(to_torch(content), path)


def to_torch(value: Any) -> Any:
    """Turn the arrays in mappings into tensors that share their memory; leave other values."""
    import torch

    if isinstance(value, Mapping):
        return {key: to_torch(inner) for key, inner in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(value)


class DiskArrays:
    """Arrays kept in one file until what they belong to is complete, to save memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, tuple[int, np.dtype, tuple[int, ...]]] = {}

    def add(self, name: str, array: np.ndarray) -> None:
        with self._path.open("ab") as file:
            self._places[name] = file.tell(), array.dtype, array.shape
            file.write(np.ascontiguousarray(array).view(np.uint8).data)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays in the order in which they came, as maps of the file."""
        if not self._places:
            return {}
        mapped = np.memmap(self._path, np.uint8, "c")
        return {
            name: np.ndarray(shape, dtype, mapped, start)
            for name, (start, dtype, shape) in self._places.items()
        }

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
