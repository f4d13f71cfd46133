"""The short list of names that a checkpoint's pickle may use; every entry is harmless here.

A pickle is a program that imports what it names and calls it. Only the names below are known; any
other object than a tensor becomes an `Inert`, which keeps what it was given and does nothing.
"""

import reprlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from convert.readers.pickle_extent import refuse_overgrown
from convert.readers.pickle_machine import Inert, Machine, refuse_keys
from convert.readers.pickle_opcodes import run
from jaxneox.errors import UserError

DTYPES: dict[str, np.dtype] = {
    "Float": np.dtype("float32"),
    "Double": np.dtype("float64"),
    "Half": np.dtype("float16"),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Byte": np.dtype("uint8"),
    "Char": np.dtype("int8"),
    "Short": np.dtype("int16"),
    "Int": np.dtype("int32"),
    "Long": np.dtype("int64"),
    "Bool": np.dtype("bool"),
}
"""Types by the names of torch's storage classes: `torch.HalfStorage` and so on."""

TORCH_DTYPES = {f"torch.{dtype.name}" for dtype in DTYPES.values()}

HARMLESS = {
    "_codecs.encode",
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "torch.device",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
    "_io.BytesIO",
    "megatron.model.enums.AttnMaskType",
    "megatron.model.enums.LayerType",
    "megatron.model.enums.ModelType",
    "megatron.model.enums.PositionEmbeddingType",
    "pathlib.PosixPath",
    "signal.Signals",
    "megatron.learning_rates.AnnealingLR",
    "megatron.neox_arguments.arguments.NeoXArgs",
    "megatron.neox_arguments.neox_args.NeoXArgs",
}
"""Classes and functions of the checkpoints' authors that hold no tensor; read, and never run."""

OF_MEGATRON = ("megatron.core.", "megatron.training.", "megatron.legacy.")
"""Prefixes of the classes in Megatron-LM's arguments, which are mostly enumerations."""

INDEX_OF_PARTS = {
    *(f"torch.distributed.checkpoint.metadata.{name}" for name in (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    )),
    *(f"torch.distributed.checkpoint.planner.{name}" for name in (
        "BytesIOWriteData", "SavePlan", "TensorWriteData", "WriteItem", "WriteItemType",
    )),
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    "torch.serialization._get_layout",
}  # fmt: skip
"""Classes in a `.metadata` of torch.distributed.checkpoint; read, and never run."""

CONTAINERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.list": list,
    "builtins.dict": dict,
    "builtins.slice": slice,
    "torch.Size": tuple,
}

OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Python 2's module names, which occur in pickles of protocol 2, torch's own."""


class Unpickler:
    """An unpickler for `torch.save` that puts lazy tensors in place of torch's.

    Only `pickle_opcodes` interprets the pickle, never Python's own `pickle`. Containers that are
    called may copy no more elements than the pickle has bytes.

    Args:
        content: the pickle.
        name: the file's, for errors.
        storage: maps (key of the record, dtype, elements) to what `tensor` gets for a storage.
        tensor: maps (storage, offset, shape, stride), in elements, to what stands for a tensor.
    """

    def __init__(self, content: bytes, name: str, storage: Callable, tensor: Callable) -> None:
        self._content, self._name, self._storage = content, name, storage
        self._room = len(content)
        self._known: dict[str, Any] = {
            full: self._bounded(kind) for full, kind in CONTAINERS.items()
        } | {
            "torch._utils._rebuild_tensor_v2": lambda s, at, shape, stride, *_: tensor(
                s, at, shape, stride
            ),
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch.nn.parameter.Parameter": lambda data, *_: data,
        }

    def load(self) -> Any:
        """Return the pickle's value.

        Raises:
            UserError: the pickle names what is not known here.
            ValueError: it is damaged, or its structure goes beyond what is read.
        """
        value = run(Machine(self._content, self.find_class, self.persistent_load))
        refuse_overgrown(value, len(self._content))
        return value

    def find_class(self, module: str, name: str) -> Any:
        full = f"{OLD_MODULES.get(module, module)}.{name}"
        if full in self._known:
            return self._known[full]
        if full in HARMLESS or full in INDEX_OF_PARTS or full.startswith(OF_MEGATRON):
            return Inert
        if full in TORCH_DTYPES:
            return full
        kind = name.removesuffix("Storage")
        if module in ("torch", "torch.storage", "torch.cuda") and kind != name:
            return kind
        raise UserError(
            f"{self._name}: its pickle names {full}, which no checkpoint of weights needs; nothing "
            "in it was run. If you trust its author, save the weights alone and convert that"
        )

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", str(kind), str(key), _, int(elements)) if kind in DTYPES:
                return self._storage(key, DTYPES[kind], elements)
        raise UserError(f"{self._name}: has a storage of an unknown kind: {reprlib.repr(pid)}")

    def _bounded(self, kind: Callable[..., Any]) -> Callable[..., Any]:
        def make(*arguments: Any) -> Any:
            self._room -= sum(len(a) for a in arguments if hasattr(a, "__len__"))
            if self._room < 0:
                raise ValueError("it copies its own content over and over")
            if kind is slice and not all(isinstance(a, int | None) for a in arguments):
                raise ValueError("a slice whose bounds are no numbers")
            refuse_keys(_hashed(kind, arguments))
            return kind(*arguments)

        return make


def _hashed(kind: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
    """Return what a container that is called with these arguments is going to hash."""
    content = arguments[0] if arguments else ()
    if kind in (set, frozenset):
        return list(content)
    if kind in (dict, OrderedDict) and not isinstance(content, Mapping):
        return [key for key, _ in content]
    return []
