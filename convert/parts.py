"""The parts in which a model is moved, so that memory holds one part, or a few, at a time.

The parts are `"embedding"`, the number of each layer, and `"head"`: the final norm and the
unembedding.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from jaxneox.config.schema import ModelConfig

Part = int | Literal["embedding", "head"]
Leaves = dict[str, np.ndarray]
"""Parameters by dotted name; those of a layer are without the layer axis."""

Shapes = Mapping[str, tuple[int, ...]]
STACKED = "layers."
"""Prefix of the names of parameters that are stacked on a layer axis."""


def parts_of(model: ModelConfig) -> list[Part]:
    """List the parts of a model in the order in which its function reads them."""
    return ["embedding", *range(model.num_layers), "head"]


def names_in(part: Part, names: Iterable[str]) -> list[str]:
    """Pick the parameters that belong to a part."""
    return [name for name in names if _belongs(name, part)]


def layer_of(part: Part) -> int | None:
    """Return the layer's number, or None for a part outside the layers."""
    return part if isinstance(part, int) else None


def nbytes(shapes: Shapes, dtypes: Mapping[str, np.dtype]) -> int:
    """Count the bytes of parameters that are stored in these types."""
    return sum(int(np.prod(shape)) * dtypes[name].itemsize for name, shape in shapes.items())


def _belongs(name: str, part: Part) -> bool:
    if name.startswith(STACKED):
        return isinstance(part, int)
    return part == ("embedding" if name.startswith("embed.") else "head")
