"""Reads an adapter of ours: LoRA's matrices without the model beside which they were trained."""

from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import numpy as np

from convert.readers.jaxneox import JaxneoxCheckpoint, parameter_shapes
from jaxneox import checkpoint
from jaxneox.config.schema import LoraConfig, ModelConfig
from jaxneox.errors import UserError
from jaxneox.model.lora import PATTERN, TARGETS

SUFFIX = "_lora"
"""Of the name of a matrix: `layers.mlp.up` has `layers.mlp.up_lora.a` and `.b` beside it."""


class AdapterCheckpoint(JaxneoxCheckpoint):
    """A step of a run with LoRA's matrices, alone or beside those of the whole model.

    Attributes:
        lora: rank, scale and targets.
        whole: the model without the matrices.

    Raises:
        UserError: it is a whole model, or contradicts its own configuration.
    """

    lora: LoraConfig
    whole: ModelConfig

    def check(self) -> None:
        folder = self.location.folder
        if self.base is None and self.model.lora is None:
            raise UserError(
                f"{folder}: is a whole model, expected an adapter: a run that was trained with "
                "`lora`"
            )
        if self.model.lora is None:
            raise UserError(
                f"{folder}: is an adapter by its `base`, but its keys have no `lora`; copy it "
                "again from its source"
            )
        if self.base is not None and not {"where", "fingerprint"} <= self.base.keys():
            raise UserError(
                f"{folder}: does not say beside which model it was trained; copy it again from its "
                "source"
            )
        self.lora, self.whole = self.model.lora, replace(self.model, lora=None)
        expected = {
            name: shape
            for name, shape in parameter_shapes(self.model).items()
            if self.is_whole or name in self.shapes or fnmatchcase(name, PATTERN)
        }
        checkpoint.check_same_model(self.location, expected)

    @property
    def is_whole(self) -> bool:
        """Whether the base's parameters are in the same checkpoint, as `model.save` writes them."""
        return self.base is None

    @property
    def where(self) -> str:
        """Where the model is beside which it was trained: a path, or a name of the hub."""
        return str(self.location.folder if self.is_whole else self.base["where"])

    @cached_property
    def matrices(self) -> tuple[str, ...]:
        """The matrices of the model beside which there are others, such as `layers.mlp.up`."""
        end = f"{SUFFIX}.a"
        return tuple(name.removesuffix(end) for name in self.shapes if name.endswith(end))

    @cached_property
    def others(self) -> tuple[str, ...]:
        """Parameters that are not LoRA's: trained as well, by `trainable`, or those of the base."""
        return tuple(name for name in self.shapes if not fnmatchcase(name, PATTERN))

    def low_rank(self, matrix: str, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the matrices A and B of one layer, which stand beside `matrix`."""
        a, b = (self.leaf(f"{matrix}{SUFFIX}.{name}", layer) for name in "ab")
        return a, b

    def delta(self, matrix: str, layer: int) -> np.ndarray:
        """Compute s A B of one layer in float64, laid out as the matrix beside which it stands."""
        return product(*self.low_rank(matrix, layer), self.lora.scale)


def product(a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
    """Compute s A B in float64: A [reads…, rank] and B [rank, writes…] make [reads…, writes…]."""
    rank = a.shape[-1]
    flat = a.reshape(-1, rank).astype(np.float64) @ b.reshape(rank, -1).astype(np.float64)
    return (scale * flat).reshape(*a.shape[:-1], *b.shape[1:])


def read_axes(cfg: ModelConfig) -> dict[str, int]:
    """Return each matrix that can have others beside it, with how many of its axes it reads."""
    every = LoraConfig(rank=1, alpha=1.0, targets=TARGETS)
    end = f"{SUFFIX}.a"
    return {
        name.removesuffix(end): len(shape) - 2  # without the layer and the rank
        for name, shape in parameter_shapes(replace(cfg, lora=every)).items()
        if name.endswith(end)
    }


def open_adapter(path: Path, step: int | None = None) -> AdapterCheckpoint:
    """Open an adapter: a run or one of its steps."""
    return AdapterCheckpoint(checkpoint.find(path, step))
