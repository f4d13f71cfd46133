"""Checkpoints on disk, written by Orbax.

A run is a folder with `config.yml`, `tokenizer/`, `metrics.jsonl` and one folder `step_N` for each
checkpoint: `params` (the flat dictionary), `training` (optimizer and counters, absent when weights
alone were saved) and `meta` (the configuration's keys, the data's fingerprint, versions). A step is
written under a temporary name and renamed when it is whole, so whatever interrupts a save leaves
the ones before it as they were.
"""

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

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
        number = folder.name.removeprefix(f"{PREFIX}_")
        if number.isdigit() and (folder / "meta").is_dir():
            found.append(int(number))
    return sorted(found)


def find(path: str | Path, step: int | None = None) -> Place:
    """The checkpoint at `path`, a run (its newest, or the given step) or one step's folder."""
    folder = Path(path).resolve()
    number = folder.name.removeprefix(f"{PREFIX}_")
    if folder.name.startswith(f"{PREFIX}_") and number.isdigit() and (folder / "meta").is_dir():
        return Place(folder.parent, int(number))
    known = steps(folder)
    if not known:
        state = "holds no whole checkpoint" if folder.is_dir() else "does not exist"
        raise UserError(f"{path}: {state}; expected a run with {PREFIX}_N folders, or one of them")
    if step is not None and step not in known:
        raise UserError(f"{path}: no checkpoint of step {step}; there are {known}")
    return Place(folder, known[-1] if step is None else step)


def read_meta(place: Place) -> dict[str, Any]:
    with _readable(place), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return reader.restore(place.folder / "meta")


def read_shapes(place: Place) -> dict[str, tuple[int, ...]]:
    with _readable(place), ocp.StandardCheckpointer() as reader:
        tree = reader.metadata(place.folder / "params").item_metadata.tree
    return {name: tuple(leaf.shape) for name, leaf in tree.items()}


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
        with self._reporting():
            self.manager.check_for_errors()
            self.manager.save(step, args=ocp.args.Composite(**items), force=True)

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
                f"{self.run}: a checkpoint could not be written ({_first_line(error)}); {newest}. "
                "Free some space or save elsewhere, then run the same command again"
            ) from error


def save_config(run: Path, text: str) -> None:
    """`config.yml`, replaced whole."""
    run.mkdir(parents=True, exist_ok=True)
    temporary = run / ".config.yml.tmp"
    temporary.write_text(text)
    temporary.replace(run / "config.yml")


def _restore(place: Place, item: str, abstract: Tree) -> Tree:
    with _readable(place), ocp.StandardCheckpointer() as reader:
        return reader.restore(place.folder / item, abstract)


@contextlib.contextmanager
def _readable(place: Place):
    try:
        yield
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        others = [step for step in steps(place.run) if step != place.step]
        hint = (
            f"try an earlier one with --iteration {others[-1]}" if others else "there is no other"
        )
        raise UserError(
            f"{place.folder}: the checkpoint cannot be read ({_first_line(error)}); {hint}"
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
