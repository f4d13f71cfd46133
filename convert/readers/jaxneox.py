"""Reads our own checkpoints, one layer at a time, whatever mesh they were saved on."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorstore as ts

from convert.checkpoint import Checkpoint, UserProgram
from convert.parts import place_of
from jaxneox import checkpoint
from jaxneox.base_model import META
from jaxneox.checkpoint import Location
from jaxneox.config import Settings
from jaxneox.config.schema import ModelConfig
from jaxneox.console.hints import command
from jaxneox.data import Tokenizer, load_tokenizer
from jaxneox.errors import UserError, listed

CACHE = 1 << 29  # bytes of decoded chunks: training saves all layers of a leaf as one chunk


class JaxneoxCheckpoint(Checkpoint):
    """A step of a run, whose parameters are read as they are stored.

    Raises:
        UserError: it cannot be read, contradicts its own configuration, or is an adapter, which is
            not a whole model.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        meta = checkpoint.read_meta(location)
        self.base: Any = meta.get(META)
        self.keys: dict[str, Any] = meta["keys"]
        self.conversion: dict[str, Any] = meta.get("conversion", {})
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE}})
        self._arrays: dict[tuple[str, str], ts.TensorStore] = {}
        self.model: ModelConfig = Settings(self.keys).model(vocab_size=None)
        self.shapes = checkpoint.read_shapes(location)
        self.check()

    @cached_property
    def declared_model(self) -> ModelConfig:
        """The model of the run's config.yml, from which training continues."""
        keys = checkpoint.read_keys(self.location)
        try:
            return Settings(keys).model(vocab_size=None)
        except UserError as error:
            config = self.location.run / "config.yml"
            raise UserError(f"{config}: {error}; restore the run's own file") from error

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        kept = self.location.run / "tokenizer"
        return load_tokenizer(kept, self.keys.get("eod_token")) if kept.is_dir() else None

    def program(self) -> UserProgram | str:
        from convert.ours.program import program

        return program(self)

    def check(self) -> None:
        """Check that the parameters are those of the saved configuration, or raise a UserError."""
        merge = command("convert", "merge-adapter", self.location.folder, "DST")
        if self.base is not None:
            raise UserError(
                f"{self.location.folder}: is an adapter, which holds LoRA's matrices without the "
                f"model beside which they were trained: `{merge}` makes a whole model of both"
            )
        if self.model.lora is not None:
            raise UserError(
                f"{self.location.folder}: has LoRA's matrices beside its own (lora): `{merge}` "
                "makes one model of both"
            )
        checkpoint.check_same_model(self.location, parameter_shapes(self.model))

    def dtype(self, name: str) -> np.dtype:
        return self._array(name).dtype.numpy_dtype

    def leaf(self, name: str, layer: int | None = None) -> np.ndarray:
        array = self._array(name)
        try:
            if layer is not None:
                array = array[place_of(name, layer, self.model)]
            return array.read().result()
        except Exception as error:  # TensorStore raises ValueError for every damage
            raise UserError(
                f"{self.location.folder}: {name} cannot be read ({str(error).splitlines()[0]})"
            ) from error

    def _array(self, name: str) -> ts.TensorStore:
        return self._stored("params", name)

    def _stored(self, item: str, name: str) -> ts.TensorStore:
        """Open an array of `params` or of `training` by its dotted name."""
        if (item, name) not in self._arrays:
            self._arrays[item, name] = self._open(item, name)
        return self._arrays[item, name]

    def _open(self, item: str, name: str) -> ts.TensorStore:
        folder = (self.location.folder / item).resolve()
        store: dict[str, Any] = {"driver": "file", "path": f"{folder}/{name}/"}
        if (folder / "manifest.ocdbt").is_file():
            # not as a URL, in which some characters of a path would mean something else
            base = {"driver": "file", "path": f"{folder}/"}
            store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
        spec = {"driver": "zarr", "kvstore": store, "recheck_cached_data": "open"}
        try:
            return ts.open(spec, context=self._context).result()
        except Exception as error:  # TensorStore raises ValueError for every damage
            raise UserError(
                f"{folder}: {name} cannot be read ({str(error).splitlines()[0]})"
            ) from error


class JaxneoxMoments(JaxneoxCheckpoint):
    """A checkpoint with Adam's moments in place of the weights: `mu` the first, `nu` the second.

    Raises:
        UserError: the checkpoint holds weights alone, another optimizer's state, or moments of some
            parameters only.
    """

    def __init__(self, location: Location, ours: Literal["mu", "nu"]) -> None:
        super().__init__(location)
        if not (location.folder / "training").is_dir():
            raise UserError(
                f"{location.folder}: holds weights alone (no-save-optim), and no optimizer to "
                "convert"
            )
        names = checkpoint.read_shapes(location, "training")
        self._names = sorted(names)
        prefixes = {name[: name.index(f".{ours}.") + len(ours) + 2] for name in names
                    if f".{ours}." in name}  # fmt: skip
        if len(prefixes) != 1:
            raise UserError(f"{location.folder}: its optimizer is not Adam, expected its moments")
        (self._prefix,) = prefixes
        without = [name for name in self.shapes if self._prefix + name not in names]
        if without:
            raise UserError(
                f"{location.folder}: has no moments of {listed(without)}, which were not trained "
                "(trainable); convert the weights alone, without --optimizer"
            )

    def _array(self, name: str) -> ts.TensorStore:
        return self._stored("training", self._prefix + name)

    @property
    def updates(self) -> int:
        """The number of updates that Adam has made."""
        name = f"{self._prefix.rpartition('.')[0].rpartition('.')[0]}.count"
        return int(self._stored("training", name).read().result())

    @property
    def position(self) -> int:
        """The position in the learning rate schedule."""
        adam = f"{self._prefix.rpartition('.')[0].rpartition('.')[0]}.count"
        others = [n for n in self._names if n.endswith(".count") and n != adam]
        return int(self._stored("training", others[-1]).read().result())


def parameter_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters that a model of this configuration has."""
    from jaxneox.model import Model
    from jaxneox.parallel.rules import rules_for

    return dict(Model(cfg, rules_for({"dp": 1, "tp": 1}, 0, False)).shapes)


def open_jaxneox(path: Path, step: int | None = None) -> JaxneoxCheckpoint:
    return JaxneoxCheckpoint(checkpoint.find(path, step))
