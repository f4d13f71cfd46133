"""`torch.save` of numpy arrays, of every type that we keep."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def save(content: Any, path: Path) -> None:
    """Arrays that map a file are read as they are written: a file needs the memory of none."""
    import torch

    torch.save(to_torch(content), path)


def to_torch(value: Any) -> Any:
    """The arrays in mappings as tensors that share their memory; all else as it is."""
    import torch

    if isinstance(value, Mapping):
        return {key: to_torch(inner) for key, inner in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(value)


def kept(path: Path, tensor: np.ndarray) -> np.ndarray:
    """The same numbers in a file, until what they belong to is whole."""
    mapped = np.memmap(path, tensor.dtype, "w+", shape=tensor.shape)
    mapped[...] = tensor
    mapped.flush()
    return mapped
