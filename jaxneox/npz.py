"""Reads NumPy's files of others: what they claim is held against their bytes before it is read.

A .npz is a zip archive of .npy files. A short one may claim an array of any size, and a compressed
one may hold a thousand times its own length.
"""

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.errors import UserError, listed
from jaxneox.reading import refuse_special

ALWAYS = 256 << 20  # bytes that a compressed file may hold, however short it is
A_BYTE = 64  # and that each of its bytes may stand for


def read_arrays(path: str | Path, only: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read the arrays of a .npz file, or the one of a .npy file under the name "".

    Args:
        path: the file.
        only: the names of those to be read, of those that are there; all unless given.

    Raises:
        UserError: it is no whole file of plain arrays, claims more than it holds, or has none of
            the names.
        FileNotFoundError: it is not there.
    """
    refuse_special(path)
    try:
        with open(path, "rb") as file:
            size = Path(path).stat().st_size
            if file.read(2) != b"PK":
                return {name: _array(file, size) for name in _chosen({"": None}, only)}
            with zipfile.ZipFile(file) as archive:
                _refuse_bomb(archive, size)
                named = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                chosen = _chosen(named, only)
                return {name: _member(archive, info) for name, info in chosen.items()}
    except Exception as error:  # those of zipfile, its decompressors and NumPy are of many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: is no .npz file of plain arrays ({reason})") from error


def _chosen(named: dict[str, Any], only: Collection[str] | None) -> dict[str, Any]:
    chosen = {name: one for name, one in named.items() if only is None or name in only}
    if only and not chosen:
        there = listed(filter(None, named)) or "none that has a name"
        raise ValueError(f"arrays {there}, expected {next(iter(only))!r}")
    return chosen


def _refuse_bomb(archive: zipfile.ZipFile, size: int) -> None:
    held = sum(info.file_size for info in archive.infolist())
    if held > max(ALWAYS, A_BYTE * size):
        raise ValueError(f"{size} bytes that hold {held}")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as file:
        return _array(file, info.file_size)


def _array(file: Any, size: int) -> NDArray[Any]:
    """Read an array from a file's beginning, if `size` bytes are enough for what it claims."""
    file.seek(0)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_2_0
    if version == (1, 0):
        read = np.lib.format.read_array_header_1_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("objects, not numbers")
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed > size:
        raise ValueError(f"an array of shape {list(shape)[:8]} in {size} bytes")
    file.seek(0)
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
