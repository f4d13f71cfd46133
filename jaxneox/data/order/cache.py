"""Large indices are built once and kept on disk beside the data, found again by their content."""

import hashlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.cache import cache_root
from jaxneox.data.files import Prefix

T = TypeVar("T", bound=Sequence[NDArray[Any]])

FORMAT = 1  # part of every key: raise it when the same key would give other arrays
COUNT = "arrays"  # the name of the file that says how many there are
SMALL = 1 << 20  # elements; fewer are built as fast as they are read


def kept(
    beside: Prefix, key: dict[str, Any], elements: int, build: Callable[[], T]
) -> Sequence[NDArray[Any]]:
    """What `build` returns, memory-mapped from the cache where it is large.

    The arrays lie in `NAME.index-KEY/` beside the data, or under `$JAXNEOX_CACHE` or
    `~/.cache/jaxneox` where that cannot be written or is not local. Several processes may ask at
    once: each writes a folder of its own, and the first to finish gives it the name.

    Args:
        beside: the prefix of the data.
        key: all that decides the arrays, as JSON.
        elements: about how many they have.
    """
    if elements < SMALL:
        return build()
    text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
    name = f"{beside.name}.index-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    local = [beside.parent] if isinstance(beside, pathlib.Path) else []
    homes = [*local, cache_root()]
    for home in homes:
        if (found := _load(home / name)) is not None:
            return found
    begun = time.monotonic()
    arrays = build()
    taken = time.monotonic() - begun
    for home in homes:
        if (found := _save(home / name, arrays)) is not None:
            print(f"built the index of {beside} in {taken:.1f} s: {home / name}", file=sys.stderr)
            return found
    return arrays


def _load(folder: pathlib.Path) -> list[NDArray[Any]] | None:
    """The arrays of a folder; None where they are not all there or cannot be read."""
    try:
        count = int((folder / COUNT).read_text())
        return [np.load(folder / f"{k}.npy", mmap_mode="r") for k in range(count)]
    except (OSError, ValueError, EOFError):
        return None


def _save(folder: pathlib.Path, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]] | None:
    """Written and read again; None where there is no room or no permission."""
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        temporary.chmod(0o755)
        for number, array in enumerate(arrays):
            with (temporary / f"{number}.npy").open("wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())
        (temporary / COUNT).write_text(str(len(arrays)))
        if _load(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        try:
            os.replace(temporary, folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same content
                raise
        return _load(folder)
    except OSError:
        return None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
