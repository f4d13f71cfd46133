"""The parts in which a model is moved, so that memory holds one part, or a few, at a time.

The parts are `"embedding"`, the number of each layer, and `"head"`: the final norm and the
unembedding.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from jaxneox.config.layer_schema import LayerKind
from jaxneox.config.schema import ModelConfig

Part = int | Literal["embedding", "head"]
Leaves = dict[str, np.ndarray]
"""Parameters by dotted name; those of a layer are without the layer axis."""

Shapes = Mapping[str, tuple[int, ...]]
STACKED = "layers."
"""Prefix of the names of parameters that are stacked on a layer axis."""

ATTENDING: tuple[LayerKind, ...] = ("dense", "experts")
KINDS_WITH: dict[str, tuple[LayerKind, ...]] = {
    "layers.norm2": ATTENDING,
    "layers.attention": ATTENDING,
    "layers.mlp": ("dense",),
    "layers.experts": ("experts",),
    "layers.mamba": ("mamba",),
}
"""The kinds of layers that have the parameters of a module; of another module, all."""


def parts_of(model: ModelConfig) -> list[Part]:
    """List the parts of a model in the order in which its function reads them."""
    return ["embedding", *range(model.num_layers), "head"]


def names_in(part: Part, names: Iterable[str], model: ModelConfig) -> list[str]:
    """Pick the parameters that belong to a part of a model."""
    if isinstance(part, int):
        kind = model.kinds[part]
        return [name for name in names if name.startswith(STACKED) and _has(kind, name)]
    return [name for name in names if _outside(name) == part]


def layers_with(name: str, model: ModelConfig) -> tuple[int, ...]:
    """List the layers over which a parameter is stacked, in order."""
    return tuple(number for number, kind in enumerate(model.kinds) if _has(kind, name))


def place_of(name: str, layer: int, model: ModelConfig) -> int:
    """Return a layer's place among those over which a parameter is stacked."""
    return sum(_has(kind, name) for kind in model.kinds[:layer])


def layer_of(part: Part) -> int | None:
    """Return the layer's number, or None for a part outside the layers."""
    return part if isinstance(part, int) else None


def place_in(part: Part, name: str, model: ModelConfig) -> int | None:
    """Return the place of a layer in its parameter, or None outside the layers."""
    return place_of(name, part, model) if isinstance(part, int) else None


def nbytes(shapes: Shapes, dtypes: Mapping[str, np.dtype]) -> int:
    """Count the bytes of parameters that are stored in these types."""
    return sum(int(np.prod(shape)) * dtypes[name].itemsize for name, shape in shapes.items())


def _has(kind: LayerKind, name: str) -> bool:
    module = ".".join(name.split(".")[:2])
    return module not in KINDS_WITH or kind in KINDS_WITH[module]


def _outside(name: str) -> Part | None:
    if name.startswith(STACKED):
        return None
    return "embedding" if name.startswith("embed.") else "head"
