"""Checkpoints on disk, written by Orbax.

A run is a folder with `config.yml`, `tokenizer/`, `metrics.jsonl` and one folder `step_N` for each
checkpoint: `params` (the flat dictionary), `training` (optimizer and counters, absent when weights
alone were saved) and `meta` (the configuration's keys, the data's fingerprint, versions). A step is
written under a temporary name and renamed when it is whole, so whatever interrupts a save leaves
the ones before it as they were.
"""

import contextlib
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from jaxneox.config import load_yaml
from jaxneox.errors import UserError

PREFIX = "step"
Tree = Any


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


def read_meta(place: Place) -> dict[str, Any]:
    """Read as the plain JSON that it is: Orbax would start jax's devices for it."""
    with _readable(place):
        return json.loads((place.folder / "meta" / "metadata").read_text())


def read_keys(place: Place) -> dict[str, Any]:
    """The run's `config.yml`; for a step that was copied alone, the keys that it was saved with."""
    config = place.run / "config.yml"
    return load_yaml([config]) if config.is_file() else read_meta(place)["keys"]


def read_shapes(place: Place, item: str = "params") -> dict[str, tuple[int, ...]]:
    """The shapes of all arrays of an item, by dotted names."""
    with _readable(place), ocp.StandardCheckpointer() as reader:
        found = reader.metadata(place.folder / item).item_metadata
        if found is None:
            raise ValueError(f"{item} has no readable metadata")
        return _shapes(found.tree)


def restore_params(place: Place, abstract: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """The weights, read straight into the shardings of `abstract`."""
    check_same_model(place, {name: leaf.shape for name, leaf in abstract.items()})
    return _restore(place, "params", abstract)


def restore_training(place: Place, abstract: Tree) -> Tree:
    """Optimizer and counters, laid out as `abstract`."""
    if not (place.folder / "training").is_dir():
        raise UserError(
            f"{place.folder}: holds weights alone (no-save-optim); start from them with --finetune"
        )
    saved, expected = read_shapes(place, "training"), _shapes(abstract)
    if saved != expected:
        parts = sorted({name for name, _ in saved.items() ^ expected.items()})
        raise UserError(
            f"{place.folder}: its optimizer is another one ({len(parts)} of its arrays differ, the "
            f"first is {parts[0]}); restore the optimizer's keys, weight-decay and "
            "gradient-clipping, or take the weights alone with --finetune and another --save"
        )
    return _restore(place, "training", abstract)


def check_same_model(place: Place, expected: dict[str, tuple[int, ...]]) -> None:
    """Raises one error that lists every parameter by which the checkpoint is of another model."""
    saved = read_shapes(place)
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - saved.keys())]
    wrong += [f"{name} is not in this model" for name in sorted(saved.keys() - expected.keys())]
    wrong += [
        f"{name} is {list(saved[name])} there and {list(shape)} here"
        for name, shape in sorted(expected.items())
        if name in saved and saved[name] != tuple(shape)
    ]
    if wrong:
        raise UserError(f"{place.folder} is a checkpoint of another model: " + "; ".join(wrong))


class Saver:
    """Writes a run's checkpoints in the background and removes old ones."""

    def __init__(self, run: Path, keep_last: int | None = None):
        self.run = run
        options = ocp.CheckpointManagerOptions(
            step_prefix=PREFIX,
            max_to_keep=keep_last,
            cleanup_tmp_directories=True,
            save_root_metadata=False,
        )
        with self._reporting():
            self.manager = ocp.CheckpointManager(run.resolve(), options=options)

    def save(self, step: int, params: Tree, training: Tree | None, meta: dict[str, Any]) -> None:
        """Returns as soon as the arrays are copied; a failed earlier save is raised here."""
        items = {"params": ocp.args.StandardSave(params), "meta": ocp.args.JsonSave(meta)}
        if training is not None:
            items["training"] = ocp.args.StandardSave(training)
        self.check()
        with self._reporting():
            self.manager.save(step, args=ocp.args.Composite(**items), force=True)

    def check(self) -> None:
        """Raises what became of a save in the background, if it failed."""
        with self._reporting():
            self.manager.check_for_errors()

    def wait(self) -> None:
        with self._reporting():
            self.manager.wait_until_finished()

    def close(self) -> None:
        with self._reporting():
            self.manager.close()

    @contextlib.contextmanager
    def _reporting(self):
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds for a failed write
            kept = steps(self.run)
            newest = f"step {kept[-1]} is whole" if kept else "there was none before"
            raise UserError(
                f"{self.run}: a checkpoint could not be written ({_cause(error)}); {newest}. "
                "Free some space or save elsewhere, then run the same command again"
            ) from error


def save_config(run: Path, text: str) -> None:
    """`config.yml`, replaced whole; makes the run's folder. Raises UserError where it cannot."""
    temporary = run / ".config.yml.tmp"
    try:
        run.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(run / "config.yml")
    except OSError as error:
        raise UserError(
            f"{run}: cannot be written ({error.strerror}); name a folder, new or a run's, with "
            "room in it by --save DIR"
        ) from error


def _restore(place: Place, item: str, abstract: Tree) -> Tree:
    with _readable(place), ocp.StandardCheckpointer() as reader:
        return reader.restore(place.folder / item, abstract)


@contextlib.contextmanager
def _readable(place: Place):
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
        others = [step for step in steps(place.run) if step < place.step]
        hint = (
            f"move it away to go on from {PREFIX}_{others[-1]}" if others else "there is no earlier"
        )
        raise UserError(
            f"{place.folder}: the checkpoint cannot be read ({_cause(error)}); {hint}"
        ) from error


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


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """By dotted names, the same for named tuples and for the dictionaries that Orbax makes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    dotted = partial(jax.tree_util.keystr, simple=True, separator=".")
    return {dotted(path): tuple(leaf.shape) for path, leaf in leaves}


def _cause(error: BaseException) -> str:
    """TensorStore's messages are long and end with the system's own error."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number is not None:
        return os.strerror(int(number[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
