"""An adapter and its base as the source of a conversion: one model, with W + s A B for each W."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint, Fidelity, Source
from convert.fate import Fate, laid_out
from convert.oracle import Forward, JaxneoxForward
from convert.ours.base import check_base, open_base
from convert.parts import Leaves, Part, Shapes, layer_of, layers_with
from convert.readers.adapter import AdapterCheckpoint, open_adapter
from convert.readers.jaxneox import JaxneoxCheckpoint, parameter_shapes
from jaxneox.data import Tokenizer
from jaxneox.errors import UserError

FLOAT32 = np.dtype(np.float32)
MERGED = "with s A B added in float64, rounded once to float32"
LEFT_OUT = ("lora", "trainable", "load", "finetune", "save")
"""The keys of an adapter's run that a whole model does not have."""


class MergedCheckpoint(Checkpoint):
    """The whole model of an adapter and its base; its function is that before any rounding.

    Attributes:
        distances: by name and layer of each merged matrix that was read, the relative L2 distance
            from what it was rounded from.
    """

    def __init__(self, adapter: AdapterCheckpoint, base: JaxneoxCheckpoint) -> None:
        self._adapter, self._base = adapter, base
        self.model = adapter.whole
        self.shapes: Shapes = parameter_shapes(adapter.whole)
        self.distances: dict[tuple[str, int], float] = {}

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self._adapter.tokenizer or self._base.tokenizer

    @property
    def fidelity(self) -> Fidelity:
        return Fidelity(rounding=frozenset({FLOAT32}))

    @property
    def forward(self) -> Forward:
        return JaxneoxForward(self.model, self.unrounded)

    def dtype(self, name: str) -> np.dtype:
        return FLOAT32

    def leaf(self, name: str, layer: int | None = None) -> np.ndarray:
        if not self.is_merged(name):
            return self._kept(name, layer)
        exact = self.unrounded(name, layer)
        with np.errstate(over="ignore"):
            stored = exact.astype(np.float32)
        if layer is not None:
            self.distances[name, layer] = distance(stored, exact)
        return stored

    def is_merged(self, name: str) -> bool:
        return name in self._adapter.matrices

    def unrounded(self, name: str, layer: int | None = None) -> np.ndarray:
        """Read a parameter in float64; a matrix with what the adapter adds to it."""
        if self.is_merged(name) and layer is None:
            return np.stack([self.unrounded(name, i) for i in layers_with(name, self.model)])
        value = self._kept(name, layer).astype(np.float64)
        if layer is None or not self.is_merged(name):
            return value
        return value + self._adapter.delta(name, layer)

    def _kept(self, name: str, layer: int | None) -> np.ndarray:
        """Read a parameter in the type in which it is trained, without what is added to it."""
        source = self._adapter if name in self._adapter.others else self._base
        return source.leaf(name, layer).astype(np.float32)


class MergedSource(Source):
    """An adapter and the model beside which it was trained, as one model in float32.

    Args:
        path: the adapter, a run or one of its steps.
        step: which of its steps; the newest unless given.
        base: where the base is, if no longer where the adapter says.

    Raises:
        UserError: one of both cannot be read, or they do not belong together.
    """

    checkpoint: MergedCheckpoint

    def __init__(self, path: Path, step: int | None, base: str | None = None) -> None:
        adapter = open_adapter(path, step)
        where = base or adapter.where
        whole = adapter if adapter.is_whole else opened_base(adapter, base)
        self.checkpoint = MergedCheckpoint(adapter, whole)
        self.path, self.kept = adapter.location.folder, False
        self.step = adapter.location.step
        self.title = f"jaxneox adapter, step {self.step}, merged into its base"
        self.keys: dict[str, Any] = {k: v for k, v in adapter.keys.items() if k not in LEFT_OUT}
        self.dtypes = dict.fromkeys(self.checkpoint.shapes, FLOAT32)
        self.tokenizer = self.checkpoint.tokenizer
        self.facts = {"kind": "jaxneox", "step": self.step, "base": where}
        origin = {name: whole.conversion[name] for name in ("from",) if name in whole.conversion}
        self.conversion = origin | {
            "adapter": str(adapter.location.folder),
            "base": {**(adapter.base or {}), "where": where},
        }

    def read(self, part: Part) -> tuple[Leaves, list[Fate]]:
        layer, leaves, fates = layer_of(part), self.checkpoint.leaves(part), []
        for name, leaf in leaves.items():
            fate = laid_out(name, layer, name, leaf, leaf)
            merged = self.checkpoint.is_merged(name)
            fates.append(replace(fate, fate=MERGED if merged else "as it is"))
        return leaves, fates

    def summary(self) -> str:
        """Say in one line how far the merged matrices are from what they were rounded from."""
        distances = self.checkpoint.distances
        worst = max(distances.values(), default=0.0)
        return (
            f"{len(distances)} matrices are W + s A B, computed in float64 and rounded once to "
            f"float32: relative L2 {worst:.1e} at most"
        )


def opened_base(adapter: AdapterCheckpoint, base: str | None) -> JaxneoxCheckpoint:
    """Open the base of an adapter, where it says or where the user has it, and check that it is it.

    Raises:
        UserError: it cannot be read, or is another model.
    """
    where = base or adapter.where
    try:
        whole = open_base(where)
    except UserError as error:
        moved = "" if base else "; if the base was moved, name it with --base WHERE"
        raise UserError(f"{adapter.location.folder}: its base: {error}{moved}") from error
    check_base(adapter, whole, where)
    return whole


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 distance of two arrays, which is 0 where both are zeros."""
    off = float(np.linalg.norm(found - expected))
    return off / (float(np.linalg.norm(expected)) or 1.0) if off else 0.0
