"""The folder of a run: which checkpoints it holds, which is meant, which is whole."""

import re
from pathlib import Path
from typing import NamedTuple

from jaxneox.errors import UserError
from jaxneox.foreign import refuse_foreign

PREFIX = "step"
CORRUPT = "corrupt"
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a Path makes one slash of two


class Location(NamedTuple):
    """The place of one checkpoint: the folder of its run, and its step."""

    run: Path
    step: int

    @property
    def folder(self) -> Path:
        return self.run / f"{PREFIX}_{self.step}"


def steps(run: Path) -> list[int]:
    """List the steps of the whole checkpoints in a run's folder, ascending."""
    numbers = []
    for folder in run.glob(f"{PREFIX}_*"):
        number = _step_of(folder)
        if number is not None and (folder / "meta").is_dir():
            numbers.append(number)
    return sorted(numbers)


def is_address(path: str | Path) -> bool:
    """Tell whether a path is an address such as s3://bucket/run."""
    return ADDRESS.match(str(path)) is not None


def on_disk(path: str | Path) -> Path:
    """Make a run's or a checkpoint's path absolute, with links followed.

    Raises:
        UserError: no checkpoint could be saved there: the path is an address as s3://…, is none of
            the system's, or has a backslash, which TensorStore takes for a slash.
    """
    if is_address(path):
        raise UserError(
            f"{path}: runs and checkpoints are folders on a disk, and this is an address; save in "
            "a folder and copy it there, or name one where the bucket is mounted"
        )
    try:
        folder = Path(path).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a null character, links in a circle
        raise UserError(f"{path}: is not a path ({error}); give another folder") from error
    if "\\" in str(folder):
        raise UserError(
            f"{folder}: has a backslash in its name, which the checkpoints' library takes for a "
            "slash; rename that folder or give another one"
        )
    return folder


def run_of(path: str | Path) -> Path:
    """Return the run's folder that a path means: itself, or the one around a step's."""
    folder = on_disk(path)
    return folder if _step_of(folder) is None else folder.parent


def find(path: str | Path, step: int | None = None) -> Location:
    """Find the checkpoint at `path`: a run (its newest, or the given step) or one step's folder.

    Raises:
        UserError: there is none.
    """
    folder = on_disk(path)
    number = _step_of(folder)
    if number is not None and step in (None, number) and (folder / "meta").is_dir():
        return Location(folder.parent, number)
    known = steps(folder)
    if not known:
        raise _nothing_at(path, folder, step)
    if step is not None and step not in known:
        raise UserError(f"{path}: no checkpoint of step {step}; there are {known}")
    return Location(folder, known[-1] if step is None else step)


def put_aside(location: Location) -> Path:
    """Rename a damaged checkpoint to `corrupt_step_N`, so that nothing takes it for whole."""
    name, number = f"{CORRUPT}_{location.folder.name}", 1
    while (target := location.run / name).exists():
        number += 1
        name = f"{CORRUPT}_{location.folder.name}-{number}"
    location.folder.rename(target)
    return target


def _step_of(folder: Path) -> int | None:
    """Return the N of a folder that is called `step_N`, as it is saved, else None."""
    prefix, _, number = folder.name.rpartition("_")
    saved = prefix == PREFIX and number.isdecimal() and str(int(number)) == number  # not 004
    return int(number) if saved else None


def _nothing_at(path: str | Path, folder: Path, step: int | None) -> UserError:
    expected = f"expected a run with {PREFIX}_N folders, or one of them by that name"
    if _step_of(folder) is not None and (folder / "meta").is_dir():
        return UserError(f"{path}: is not the checkpoint of step {step}: leave one of the two out")
    refuse_foreign(path)
    state = "is a file" if folder.is_file() else "does not exist"
    if folder.is_dir():
        state = "holds no whole checkpoint"
    return UserError(f"{path}: {state}; {expected}")
