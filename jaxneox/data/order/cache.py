"""Large indices are built once and kept on disk beside the data, recognised by their content."""

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jaxneox.console.say import tell
from jaxneox.data.cache import cache_root, new_entry, say_damaged, sums_hold, sums_of
from jaxneox.data.storage import Prefix

T = TypeVar("T", bound=Sequence[NDArray[Any]])

FORMAT = 1  # part of every key: raise it when the same key would give other arrays
COUNT = "arrays"  # the name of the file that says how many there are, and their sums
SMALL = 1 << 20  # elements; fewer are built as fast as they are read


def kept(
    beside: Prefix, key: dict[str, Any], elements: int, build: Callable[[], T]
) -> Sequence[NDArray[Any]]:
    """Return what `build` makes, memory-mapped from the cache if it is large.

    The arrays are in `NAME.index-KEY/` beside the data, or under `$JAXNEOX_CACHE` or
    `~/.cache/jaxneox` if that cannot be written or is not local. Several processes may ask at once:
    each writes a folder of its own, and the first to finish gives it the name. Damaged ones are
    built again.

    Args:
        beside: the prefix of the data.
        key: all that decides the arrays, as JSON.
        elements: about how many they have.
        build: makes the arrays.
    """
    if elements < SMALL:
        return build()
    text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
    name = f"{beside.name}.index-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    local = [beside.parent] if isinstance(beside, pathlib.Path) else []
    homes = [*local, cache_root()]
    for home in homes:
        if (arrays_on_disk := _load(home / name)) is not None:
            return arrays_on_disk
        if (home / name).is_dir():
            say_damaged(home / name)
    begun = time.monotonic()
    arrays = build()
    taken = time.monotonic() - begun
    for home in homes:
        if (arrays_on_disk := _save(home / name, arrays)) is not None:
            tell(f"built the index of {beside} in {taken:.1f} s: {home / name}")
            return arrays_on_disk
    return arrays


def _load(folder: pathlib.Path) -> list[NDArray[Any]] | None:
    """Load the arrays of a folder; None if they are not all there, or not what was written."""
    try:
        count, *sums = (folder / COUNT).read_text().split("\n", 1)
        if sums and not sums_hold(folder, sums[0]):  # earlier versions noted none
            return None
        return [np.load(folder / f"{k}.npy", mmap_mode="r") for k in range(int(count))]
    except (OSError, ValueError, EOFError):
        return None


def _save(folder: pathlib.Path, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]] | None:
    """Write the arrays and read them again; None if there is no room or no permission."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_entry(folder, lambda: _load(folder) is not None) as made:
            for number, array in enumerate(arrays):
                with (made / f"{number}.npy").open("wb") as file:
                    np.save(file, array)
                    file.flush()
                    os.fsync(file.fileno())
            sums = sums_of(made)
            (made / COUNT).write_text(f"{len(arrays)}\n{sums}")
        return _load(folder)
    except OSError:
        return None
