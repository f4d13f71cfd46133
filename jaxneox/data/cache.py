"""A cache of files that can be made or fetched again, shared by several processes.

An entry has its name only when it is whole, and is taken away only when it was looked at again, by
one process at a time, and found damaged: what a call has returned stays.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator

from jaxneox.console.say import tell
from jaxneox.data.sha256 import file_sha256


def cache_root() -> pathlib.Path:
    """`$JAXNEOX_CACHE`, or `~/.cache/jaxneox`; it need not exist yet."""
    return pathlib.Path(os.environ.get("JAXNEOX_CACHE") or "~/.cache/jaxneox").expanduser()


@contextlib.contextmanager
def new_entry(entry: pathlib.Path, whole: Callable[[], bool]) -> Iterator[pathlib.Path]:
    """Yield a folder to fill, which becomes `entry` at the end, unless that has appeared meanwhile.

    Args:
        entry: the folder's path in the end.
        whole: tells whether what is at that path is complete and undamaged.

    Raises:
        OSError: it cannot be made; nothing is left behind.
    """
    temporary = pathlib.Path(tempfile.mkdtemp(dir=entry.parent, prefix=f".{entry.name}."))
    try:
        temporary.chmod(0o755)
        yield temporary
        with _alone(entry):
            if not whole():
                _take_away(entry)
                try:
                    os.rename(temporary, entry)
                except OSError:
                    if not whole():  # else another was first, where there are no locks
                        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sums_of(folder: pathlib.Path) -> str:
    """Return the SHA-256 of each file of an entry, as text for `sums_hold`."""
    return json.dumps({path.name: file_sha256(path) for path in sorted(folder.iterdir())})


def sums_hold(folder: pathlib.Path, text: str) -> bool:
    """Tell whether the files of an entry are what `sums_of` has read.

    Raises:
        OSError: a file cannot be read.
        ValueError: the text does not have that form.
    """
    sums = json.loads(text)
    if not isinstance(sums, dict):
        raise ValueError(f"{folder}: expected sums by file names, found {text[:40]}")
    return all(file_sha256(folder / name) == known for name, known in sums.items())


def say_damaged(entry: pathlib.Path) -> None:
    tell(f"the cache's {entry} is damaged: making it again")


@contextlib.contextmanager
def _alone(entry: pathlib.Path) -> Iterator[None]:
    """Let one process at a time judge and replace what is in a folder; nobody else waits for it."""
    folder = os.open(entry.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: the names must do
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _take_away(entry: pathlib.Path) -> None:
    """Remove an entry by a rename first, so that there is never half of one under its name."""
    aside = pathlib.Path(tempfile.mkdtemp(dir=entry.parent, prefix=f".{entry.name}."))
    with contextlib.suppress(FileNotFoundError):
        os.rename(entry, aside / entry.name)
    shutil.rmtree(aside, ignore_errors=True)
