"""Tells whether a stored item of a checkpoint is damaged, or merely cannot be read here and now.

Only what is proven damaged may be put aside. The proof asks neither Orbax nor a device: an item is
damaged if all its files can be read as bytes, and yet the format's own sums, lengths or syntax do
not hold. Whatever else fails (a permission, a disk, memory, too many open files, another version of
the format) may succeed tomorrow or on another machine.
"""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import jax

from jaxneox.console.say import tell

MANIFEST = "manifest.ocdbt"
PER_PROCESS = "ocdbt.process_"
METADATA = "_METADATA"  # Orbax's: the names of the arrays and how they are stored
CHUNK = 64 << 20
# TensorStore's words for bytes that are wrong, too few or gone; all others say nothing of the bytes
PROOF = re.compile(r"DATA_LOSS|OUT_OF_RANGE|FAILED_PRECONDITION|INVALID_ARGUMENT|NOT_FOUND")
NO_PROOF = re.compile(r"os_error_code|[Vv]ersion")


def damaged(item: Path) -> bool:
    """Tell whether an item's folder (`params`, say) is proven to be other than what was saved.

    Numbers that decode but are others are not looked at: `checkpoint.check_sums` is for them.
    """
    try:
        if unmerged(item):
            return False
        return not item.is_dir() or _files_damaged(item) or _arrays_damaged(item)
    except (OSError, MemoryError, KeyError, TypeError):  # the last two: another version's metadata
        return False


def unmerged(item: Path) -> bool:
    """Tell whether the parts that the processes have written were never merged into one database.

    Orbax left it so, and called it a checkpoint, where the folder's path has a `[` or a backslash.
    """
    return not (item / MANIFEST).exists() and any(item.glob(f"{PER_PROCESS}*/{MANIFEST}"))


def merge(item: Path) -> None:
    """Merge the parts of an unmerged item, as Orbax would have, and say so.

    Only an index is written.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: the parts do not fit together.
    """
    import tensorstore as ts

    parts = sorted(manifest.parent for manifest in item.glob(f"{PER_PROCESS}*/{MANIFEST}"))
    context = ts.Context()  # one for all, without which nothing is copied
    whole = ts.KvStore.open(_database(item), context=context).result()
    with ts.Transaction(atomic=True) as transaction:
        for part in parts:
            source = ts.KvStore.open(_database(part), context=context).result()
            source.experimental_copy_range_to(whole.with_transaction(transaction)).result()
    tell(
        f"note: {item}: what its processes had written was never made one (Orbax stumbles over "
        "some characters in a path); it is now"
    )


def missing_file(item: Path) -> str | None:
    """Name the first file without which nothing restores an item that was just saved."""
    return next((name for name in (METADATA, MANIFEST) if not (item / name).is_file()), None)


def is_a_lost_connection(error: BaseException | None) -> bool:
    """Tell whether a collective or a barrier, of jax or Orbax, broke off, rather than a file."""
    while error is not None and not isinstance(error, jax.errors.JaxRuntimeError):
        error = error.__cause__ or error.__context__
    return error is not None


def _errno(error: BaseException) -> int | None:
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return int(number[1]) if number else getattr(error, "errno", None)


def cause(error: BaseException) -> str:
    """Shorten what Orbax and TensorStore say: it is long and ends with the system's own error."""
    number = _errno(error)
    if number is not None:
        return os.strerror(number)
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]


def remedy(error: BaseException) -> str:
    """Say what to do about a write that failed."""
    number = _errno(error)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Free some space or save elsewhere"
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in str(error):
        return "Allow more open files (ulimit -n 65536)"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Make the folder writable or save elsewhere"
    if number == errno.ENOMEM or isinstance(error, MemoryError):
        return "Free some memory"
    return "See to that or save elsewhere"


def _database(folder: Path) -> dict[str, Any]:
    """Address a database by JSON, since a URL gives some characters of a path another meaning."""
    return {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}


def _files_damaged(item: Path) -> bool:
    """Read all files once, and tell whether one that must be there is missing.

    Raises:
        OSError: a file cannot be read.
    """
    for path in sorted(path for path in item.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            while file.read(CHUNK):
                pass
    try:
        wants_manifest = json.loads((item / METADATA).read_text()).get("use_ocdbt", True)
    except (FileNotFoundError, ValueError, AttributeError, RecursionError):
        return True
    return wants_manifest and not (item / MANIFEST).exists()


def _arrays_damaged(item: Path) -> bool:
    """Read all arrays, one after another, as they are stored; tell whether one is damaged."""
    import tensorstore as ts

    in_database = (item / MANIFEST).exists()
    try:
        for name in _names(item):
            store = _database(item) | {"path": f"{name}/"}
            if not in_database:  # a conversion writes each as a folder of its own
                store = {"driver": "file", "path": f"{item}/{name}/"}
            array = ts.open({"driver": "zarr", "kvstore": store}).result()
            for at in range(array.shape[0]) if array.ndim else (...,):
                array[at].read().result()
    except ValueError as error:  # which TensorStore raises for whatever the system says
        return bool(PROOF.search(str(error))) and not NO_PROOF.search(str(error))
    return False


def _names(item: Path) -> list[str]:
    """List the dotted names of the arrays that an item has."""
    tree = json.loads((item / METADATA).read_text())["tree_metadata"]
    return [
        ".".join(str(part["key"]) for part in leaf["key_metadata"])
        for leaf in tree.values()
        if not leaf["value_metadata"]["skip_deserialize"]
    ]
