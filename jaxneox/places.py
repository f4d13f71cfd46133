"""The folders of a run and of its checkpoints: which there are, which is meant, which is whole."""

from pathlib import Path
from typing import NamedTuple

from jaxneox.errors import UserError

PREFIX = "step"
CORRUPT = "corrupt"


class Place(NamedTuple):
    """One checkpoint: the folder of its run, and its step."""

    run: Path
    step: int

    @property
    def folder(self) -> Path:
        return self.run / f"{PREFIX}_{self.step}"


def steps(run: Path) -> list[int]:
    """The steps of the whole checkpoints in a run's folder, ascending."""
    found = []
    for folder in run.glob(f"{PREFIX}_*"):
        number = _step_of(folder)
        if number is not None and (folder / "meta").is_dir():
            found.append(number)
    return sorted(found)


def run_of(path: str | Path) -> Path:
    """The run's folder that a path means: itself, or the one around a step's."""
    folder = Path(path).resolve()
    return folder if _step_of(folder) is None else folder.parent


def find(path: str | Path, step: int | None = None) -> Place:
    """The checkpoint at `path`, a run (its newest, or the given step) or one step's folder."""
    folder = Path(path).resolve()
    number = _step_of(folder)
    if number is not None and step in (None, number) and (folder / "meta").is_dir():
        return Place(folder.parent, number)
    known = steps(folder)
    if not known:
        raise _nothing_at(path, folder, step)
    if step is not None and step not in known:
        raise UserError(f"{path}: no checkpoint of step {step}; there are {known}")
    return Place(folder, known[-1] if step is None else step)


def put_aside(place: Place) -> Path:
    """Renames a damaged checkpoint to `corrupt_step_N`, so that nothing takes it for whole."""
    name, number = f"{CORRUPT}_{place.folder.name}", 1
    while (target := place.run / name).exists():
        number += 1
        name = f"{CORRUPT}_{place.folder.name}-{number}"
    place.folder.rename(target)
    return target


def _step_of(folder: Path) -> int | None:
    """N for a folder that is called `step_N`."""
    prefix, _, number = folder.name.rpartition("_")
    return int(number) if prefix == PREFIX and number.isdecimal() else None


def _nothing_at(path: str | Path, folder: Path, step: int | None) -> UserError:
    expected = f"expected a run with {PREFIX}_N folders, or one of them by that name"
    if _step_of(folder) is not None and (folder / "meta").is_dir():
        return UserError(f"{path}: is not the checkpoint of step {step}: leave one of the two out")
    state = "holds no whole checkpoint" if folder.is_dir() else "does not exist"
    return UserError(f"{path}: {state}; {expected}")
