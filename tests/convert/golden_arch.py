"""NeoX's checkpoints of other kinds of layers, which lie where $JAXNEOX_SHARED is."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("JAXNEOX_SHARED", ROOT.parent / "shared")) / "golden" / "neox_arch"


@dataclass(frozen=True)
class ArchCase:
    folder: Path

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "golden.npz") as arrays:
            return dict(arrays)

    @property
    def tokens(self) -> np.ndarray:
        return self.arrays["tokens"].astype(np.int64)

    @property
    def step(self) -> Path:
        return self.folder / (self.folder / "latest").read_text().strip()


def find_arch(name: str) -> ArchCase:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not among the golden cases here: set JAXNEOX_SHARED")
    return ArchCase(folder)


def differing_tensors(ours: Path, theirs: Path) -> list[str]:
    """Name the tensors of layer files that are not the same bytes in both folders."""
    wrong = []
    for path in sorted(theirs.glob("layer_*.pt")):
        expected = torch.load(path, weights_only=True)
        found: dict[str, Any] = {}
        if (ours / path.name).is_file():
            found = torch.load(ours / path.name, weights_only=True)
        for name in expected.keys() | found.keys():
            same = name in expected and name in found and same_bytes(expected[name], found[name])
            if not same:
                wrong.append(f"{path.name}: {name}")
    return wrong


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool((bits(a) == bits(b)).all())


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.uint8)
