"""Writes our own checkpoints, one layer at a time: Orbax makes the layout, filled chunk by chunk.

Orbax takes whole arrays. Here it saves a scalar for each parameter, which creates all of its own
metadata; each scalar is then replaced by an array of the true shape, whose chunks are single
layers.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
import yaml

from convert.parts import STACKED
from jaxneox.errors import UserError
from jaxneox.literal import literal
from jaxneox.run_folder import PREFIX
from jaxneox.saver import save_config

CONTEXT = ts.Context({"file_io_sync": False})


Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype]]


class Item:
    """One of a step's folders of arrays, `params` or `training`, by dotted names."""

    def __init__(self, folder: Path, scalars: Any, leaves: Shapes) -> None:
        """Open a folder; `scalars` is the saved tree with a scalar for each array."""
        self._folder = folder.resolve()
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as saver:
            saver.save(literal(self._folder), args=ocp.args.PyTreeSave(scalars))
        self._arrays = {name: self._create(name, *leaf) for name, leaf in leaves.items()}

    def write(self, name: str, layer: int | None, value: np.ndarray) -> None:
        """Write one layer, or a whole value.

        A chunk is a layer, or the value, as it lies in memory (zarr 2, C order, no compressor), so
        that its file is written as it is: TensorStore would copy it twice before.

        Raises:
            UserError: the disk refuses it.
        """
        array = self._arrays[name]
        shape = array.shape if layer is None else array.shape[1:]
        if value.shape != shape or value.dtype != array.dtype.numpy_dtype:
            raise ValueError(f"{name}: {value.dtype}{value.shape}, expected {array.dtype}{shape}")
        if layer is None and _is_stacked(name):
            for number, one in enumerate(value):
                self.write(name, number, one)
            return
        first = [] if layer is None else [layer]
        place = ".".join(map(str, [*first, *[0] * value.ndim])) or "0"
        try:
            with (self._folder / name / place).open("wb", buffering=0) as file:
                left = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
                while left:
                    left = left[file.write(left) :]
        except OSError as error:
            raise UserError(f"{self._folder}: cannot be written ({error.strerror})") from error

    def _create(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> ts.TensorStore:
        stacked = _is_stacked(name)
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": f"{self._folder / name}/"},
            "dtype": dtype.name,
            "metadata": {
                "shape": shape,
                "chunks": (1, *shape[1:]) if stacked else shape,
                "compressor": None,
            },
        }
        return ts.open(spec, create=True, delete_existing=True, context=CONTEXT).result()


class JaxneoxWriter:
    """A writer of `folder/step_N`: first parameters, in any order, then `training`, `finish`."""

    def __init__(self, folder: Path, step: int, leaves: Shapes) -> None:
        self.folder, self._step = folder, folder / f"{PREFIX}_{step}"
        self._step.mkdir(parents=True)
        scalars = {name: np.zeros((), dtype) for name, (_, dtype) in leaves.items()}
        self._params = Item(self._step / "params", scalars, leaves)

    def write(self, name: str, layer: int | None, value: np.ndarray) -> None:
        """Write a parameter, or one layer of it: see `Item.write`."""
        self._params.write(name, layer, value)

    def training(self, scalars: Any, leaves: Shapes) -> Item:
        """Begin the optimizer's state and the counters, which `Item.write` writes."""
        return Item(self._step / "training", scalars, leaves)

    def finish(self, keys: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        save_config(self.folder, yaml.safe_dump(dict(keys), sort_keys=False))
        (self._step / "meta").mkdir()
        meta = {"keys": dict(keys), **extra}
        (self._step / "meta" / "metadata").write_text(json.dumps(meta))


def _is_stacked(name: str) -> bool:
    return f".{STACKED}" in f".{name}"
