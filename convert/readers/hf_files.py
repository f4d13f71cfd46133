"""The files of a Hugging Face folder and the tensors in them, none of which is read here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ml_dtypes
import numpy as np

from convert.readers.torch_file import TorchFile
from jaxneox.console.hints import command
from jaxneox.errors import UserError, listed
from jaxneox.reading import INDEX_SIZE, read_object, refuse_unreadable

WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
PEFT = "adapter_config.json"
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
"""Types by safetensors' names; a tensor of any other type is not a weight of these models."""

MOST_TENSORS = 1 << 16  # of a file; a model of 1,000 layers has fewer


class HfTensor(Protocol):
    """A tensor of a file; `dtype` is None if it is of an unsupported type."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype | None: ...
    def numpy(self) -> np.ndarray: ...


@dataclass(frozen=True)
class SafeTensor:
    """A tensor of a safetensors file, which is mapped only while it is read, to save memory."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype | None

    def numpy(self) -> np.ndarray:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="numpy") as file:
                return file.get_tensor(self.name)
        except (SafetensorError, OSError) as error:
            raise damaged(self.path, error) from error


def weight_files(folder: Path) -> list[Path]:
    """List a folder's weight files as transformers looks for them.

    Safetensors take precedence over pickles, and a single file over shards.

    Raises:
        UserError: there are none, or shards are missing.
    """
    for name in WHOLE:
        if (folder / name).is_file():
            return [folder / name]
        if (folder / f"{name}{INDEX}").is_file():
            return _shards(folder / f"{name}{INDEX}")
    raise UserError(
        f"{folder}: holds no weights; expected {' or '.join(WHOLE)}, or shards with an {INDEX}"
    )


def _shards(index: Path) -> list[Path]:
    names = sorted(set(_weight_map(index).values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(f"{index.parent}: missing {listed(missing)}; copy the whole checkpoint")
    return [index.parent / name for name in names]


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_object(index, INDEX_SIZE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: has no weight_map; copy it again from its source")
    outside = [
        name for name in weight_map.values() if Path(str(name)).name != name or name in ("", "..")
    ]
    if outside:
        raise UserError(f"{index}: names {outside[0]!r}, which is not a file beside it")
    return weight_map


def tensors(files: list[Path]) -> dict[str, HfTensor]:
    """Return the tensors of files by name.

    Raises:
        UserError: a file is damaged, or a tensor is in two of them.
    """
    by_name: dict[str, HfTensor] = {}
    for path in files:
        for name, tensor in _opened(path):
            if name in by_name:
                raise UserError(f"{path}: {name} is in another shard as well")
            by_name[name] = tensor
    return by_name


def _opened(path: Path) -> Iterator[tuple[str, HfTensor]]:
    return _safe(path) if path.suffix == ".safetensors" else _pickled(path)


def _safe(path: Path) -> Iterator[tuple[str, HfTensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        refuse_unreadable(path)
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            if len(names) > MOST_TENSORS:
                raise UserError(
                    f"{path}: claims {len(names):,} tensors, expected at most {MOST_TENSORS:,}; "
                    "is it the weights of a language model?"
                )
            for name in names:
                part = file.get_slice(name)
                dtype = DTYPES.get(part.get_dtype())
                kept = None if dtype is None else np.dtype(dtype)
                yield name, SafeTensor(path, name, tuple(part.get_shape()), kept)
    except (SafetensorError, OSError) as error:
        raise damaged(path, error) from error


def _pickled(path: Path) -> Iterator[tuple[str, HfTensor]]:
    file = TorchFile(path)
    if not isinstance(file.content, Mapping):
        raise UserError(f"{path}: holds {type(file.content).__name__}, expected tensors")
    for name, tensor in file.content.items():
        if not hasattr(tensor, "numpy"):
            raise UserError(f"{path}: {name} is {type(tensor).__name__}, expected a tensor")
        yield str(name), tensor


def refuse_peft(folder: Path) -> None:
    """Refuse a folder of PEFT's, which holds an adapter and no model.

    Raises:
        UserError: with the command that converts it.
    """
    if (folder / PEFT).is_file() and not (folder / "config.json").is_file():
        convert = command("convert", "from-peft", folder, "DST")
        raise UserError(f"{folder}: holds an adapter of PEFT and no model: `{convert}` converts it")


def damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: is damaged or not a safetensors file ({error}); copy it again from its source"
    )
