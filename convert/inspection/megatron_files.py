"""Megatron-LM's files as names, shapes and dtypes, and the other content of its pickles.

There are two formats. `torch`: `iter_N/mp_rank_TT[_PPP[_EEE]]/model_optim_rng.pt`, a torch file for
each rank. `torch_dist`: `iter_N/.metadata`, a pickle that says what lies where in `__R_I.distcp`,
each a concatenation of torch files; the arguments are among them or in `common.pt`.
"""

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from convert.readers.pickle_opcodes import LONGEST
from convert.readers.pickles import DTYPES, TORCH_DTYPES, Inert, Unpickler
from convert.readers.torch_file import damaged, reason
from jaxneox.errors import UserError
from jaxneox.reading import NAME_SIZE, read_bytes, read_text

ITERATION = re.compile(r"iter_(\d{7,})")
RANK = re.compile(r"mp_rank_(\d+)(?:_(\d+))?(?:_\d+)?")
PARTS = re.compile(r"\w+\.distcp")
MODEL = re.compile(r"model\w*rng\.pt")
LATEST = "latest_checkpointed_iteration.txt"
RELEASE = "release"  # the folder of weights without a step
ITEMSIZE = {dtype.name: dtype.itemsize for dtype in DTYPES.values()}
COMMON = 64 << 20  # bytes that the common state, which holds no weights, may take at most


class TensorHeader(NamedTuple):
    """The header of a tensor; `value` is that of a lone number."""

    shape: tuple[int, ...]
    dtype: str
    value: float | None = None


class LenientUnpickler(Unpickler):
    """An unpickler that accepts unknown names too: their stand-ins here do nothing."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except UserError:
            return Inert


@dataclass
class DistIndex:
    """A torch_dist folder: whole tensors by key, and the files that hold them.

    Attributes:
        common: the state without tensors: `args` and counters.
        lengths: the least number of bytes that each file must have.
    """

    tensors: dict[str, TensorHeader] = field(default_factory=dict)
    common: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)


def step_folder(path: Path, step: int | None) -> tuple[Path, list[int]]:
    """Return the folder of an iteration, by default the latest, and the list of all iterations."""
    if any(MODEL.fullmatch(child.name) for child in path.iterdir()):
        path = path.resolve().parent  # one rank's folder
    own = ITERATION.fullmatch(path.resolve().name)
    run = path.resolve().parent if own else path
    folders = {int(m[1]): c for c in run.iterdir() if (m := ITERATION.fullmatch(c.name))}
    if step is None and not own and _newest(run) == RELEASE and (run / RELEASE).is_dir():
        return run / RELEASE, sorted(folders)
    if own or not folders:
        if step is not None and not (own and int(own[1]) == step):
            raise UserError(f"{path}: is not iteration {step}: leave one of the two out")
        return path, sorted(folders)
    if step is not None and step not in folders:
        known = ", ".join(map(str, sorted(folders)))
        raise UserError(f"{path}: no checkpoint of iteration {step}; there are: {known}")
    return folders[_latest(run, folders) if step is None else step], sorted(folders)


def _latest(run: Path, there: Mapping[int, Path]) -> int:
    text = _newest(run)
    if text is None:
        return max(there)
    if not (text.isdecimal() and len(text) < 20 and int(text) in there):
        raise UserError(
            f"{run / LATEST}: names {text[:40]}, which is not a folder here; choose one with --step"
        )
    return int(text)


def _newest(run: Path) -> str | None:
    """Return the iteration that a run names as its newest."""
    path = run / LATEST
    return read_text(path, NAME_SIZE, errors="replace").strip() if path.is_file() else None


def read_torch(file: BinaryIO, path: Path) -> Any:
    """Read a torch file, with a `TensorHeader` in place of each tensor."""
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise ValueError("its pickle is compressed")
            folder = name.removesuffix("data.pkl")

            def storage(key: str, dtype: np.dtype, elements: int) -> tuple[np.dtype, Any]:
                record = archive.getinfo(f"{folder}data/{key}")
                alone = elements == 1 and record.file_size == dtype.itemsize
                value = np.frombuffer(archive.read(record), dtype)[0] if alone else None
                return dtype, value

            return LenientUnpickler(archive.read(name), str(path), storage, _tensor).load()
    except Exception as error:  # a damaged file can raise anything
        raise damaged(path, reason(error)) from error


def _tensor(storage: tuple[np.dtype, Any], offset: int, shape: Any, stride: Any) -> TensorHeader:
    dtype, value = storage
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("a tensor of no shape")
    return TensorHeader(tuple(shape), dtype.name, None if value is None else float(value))


def read_index(folder: Path) -> DistIndex:
    path = folder / ".metadata"
    index = DistIndex()
    try:
        metadata = state_of(
            LenientUnpickler(read_bytes(path, LONGEST), str(path), _no_tensors, _no_tensors).load()
        )
        storage = {
            state_of(key)["fqn"]: state_of(place) for key, place in metadata["storage_data"].items()
        }
        for name, entry in metadata["state_dict_metadata"].items():
            if isinstance(size := state_of(entry).get("size"), tuple):
                index.tensors[str(name)] = TensorHeader(size, _dtype(state_of(entry)))
        for place in map(state_of, metadata["storage_data"].values()):
            name, end = str(place["relative_path"]), int(place["offset"]) + int(place["length"])
            index.lengths[name] = max(end, index.lengths.get(name, 0))
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise damaged(path, reason(error)) from error
    index.common = _common(folder, storage)
    return index


def _common(folder: Path, storage: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Read `common.pt`, or an object in its place; the optimizer's state may be another object."""
    path = folder / "common.pt"
    if path.is_file():
        with path.open("rb") as file:
            state = dict(read_torch(file, path))
    else:
        state = _object(folder, storage, "common_state/")
    own = _object(folder, storage, "optimizer.distributed.dp_group_idx_0.optimizer/")
    if own:
        state["optimizer"] = dict(state.get("optimizer") or {}) | own
    return state


def _object(folder: Path, storage: Mapping[str, Mapping[str, Any]], prefix: str) -> dict[str, Any]:
    """Read a mapping that is saved among the tensors; empty if its file is missing or cut off."""
    place = next((p for key, p in storage.items() if key.startswith(prefix)), None)
    if place is None or not PARTS.fullmatch(str(place["relative_path"])):
        return {}
    path = folder / str(place["relative_path"])
    if not path.is_file() or path.stat().st_size < place["offset"] + place["length"]:
        return {}
    with path.open("rb") as file:
        file.seek(place["offset"])
        content = read_torch(io.BytesIO(file.read(min(place["length"], COMMON))), path)
    content = content[0] if isinstance(content, list) and content else content
    return dict(content) if isinstance(content, Mapping) else {}


def state_of(value: Any) -> dict[str, Any]:
    """Return the attributes that a pickle gave an object."""
    state = getattr(value, "state", None)
    return state if isinstance(state, dict) else {}


def tensors_of(state: Any, prefix: str = "") -> Iterator[tuple[str, TensorHeader]]:
    """Flatten the tensors of nested mappings and lists to dotted names."""
    pairs = state.items() if isinstance(state, Mapping) else enumerate(state)
    for name, value in pairs:
        if isinstance(value, TensorHeader):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping) or type(value) in (list, tuple):
            yield from tensors_of(value, f"{prefix}{name}.")


def nbytes(tensors: Iterable[TensorHeader]) -> int:
    return sum(prod(t.shape) * ITEMSIZE.get(t.dtype, 0) for t in tensors)


def _dtype(entry: Mapping[str, Any]) -> str:
    """Return the dtype, which is the first item of pickled TensorProperties, a tuple."""
    state = getattr(entry.get("properties"), "state", None)
    name = state[0] if isinstance(state, tuple) and state else None
    return str(name).removeprefix("torch.") if name in TORCH_DTYPES else "another"


def _no_tensors(*arguments: Any) -> Any:
    raise ValueError("a tensor in an index")
