"""Checkpoints on disk, written by Orbax.

A run is a folder with `config.yml`, `tokenizer/`, `metrics.jsonl` and one folder `step_N` for each
checkpoint: `params` (the flat dictionary), `training` (optimizer and counters, absent when weights
alone were saved) and `meta` (the configuration's keys, the data's fingerprint, versions, checksums
of the arrays). A step is written under a temporary name and renamed when it is whole, so whatever
interrupts a save leaves the ones before it as they were. All processes of a run write and read
their parts of the arrays, in one folder that they share.
"""

import contextlib
import json
import logging
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxneox import damage
from jaxneox.checksums import checksums, differing
from jaxneox.config import load_yaml
from jaxneox.errors import UserError
from jaxneox.hosts import messages
from jaxneox.literal import literal
from jaxneox.places import PREFIX, Place, find, on_disk, put_aside, run_of, steps

CHUNK = 64 << 20  # bytes of an array that are read together at least
Tree = Any
__all__ = [
    "Place",
    "find",
    "on_disk",
    "put_aside",
    "run_of",
    "steps",
]  # of jaxneox.places, for all users


class Damaged(UserError):
    """A checkpoint that is not what was saved; another one may still be whole."""


def read_meta(place: Place) -> dict[str, Any]:
    """Read a checkpoint's `meta` as the plain JSON that it is: Orbax would start jax's devices."""
    try:
        meta = json.loads((place.folder / "meta" / "metadata").read_text())
        if not isinstance(meta, dict) or ("crc32" in meta and meta.pop("crc32") != _crc(meta)):
            raise ValueError("meta is not what was saved")
        return meta
    except (OSError, ValueError) as error:
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        proven = gone or isinstance(error, ValueError)
        raise _unreadable(place, damage.cause(error), Damaged if proven else UserError) from error


def read_keys(place: Place) -> dict[str, Any]:
    """Read the run's `config.yml`; for a step that was copied alone, the keys saved with it."""
    config = place.run / "config.yml"
    return load_yaml([config]) if config.is_file() else read_meta(place)["keys"]


def read_shapes(place: Place, item: str = "params") -> dict[str, tuple[int, ...]]:
    """Read the shapes of all arrays of an item, by dotted names."""
    with _readable(place, item), _quiet(), _reader() as reader:
        found = reader.metadata(literal(place.folder / item)).item_metadata
        if found is None:
            raise ValueError(f"{item} has no readable metadata")
        return _shapes(found.tree)


def restore_params(place: Place, abstract: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Read the weights straight into the shardings of `abstract`."""
    check_same_model(place, {name: leaf.shape for name, leaf in abstract.items()})
    return _restore(place, "params", abstract)


def restore_training(place: Place, abstract: Tree) -> Tree:
    """Read optimizer and counters, laid out as `abstract`."""
    if not (place.folder / "training").is_dir():
        if "training" in read_meta(place).get("checksums", {}):
            raise _unreadable(place, "its folder training is missing", Damaged)
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
    return _restore_by_name(place, "training", abstract)


def check_sums(place: Place, **items: Tree) -> None:
    """Check that the arrays of each item are what was saved.

    Older checkpoints have no sums to check. All processes of a mesh must call this.

    Raises:
        Damaged: an array has other numbers.
    """
    saved = read_meta(place).get("checksums", {})
    for item, tree in items.items():
        wrong = differing(checksums(tree), saved[item]) if item in saved else []
        if wrong:
            cause = f"{len(wrong)} arrays of {item} have other numbers than saved: {wrong[0]}"
            raise _unreadable(place, cause, Damaged)


def check_same_model(place: Place, expected: dict[str, tuple[int, ...]]) -> None:
    """Check that a checkpoint has the parameters of a model.

    Raises:
        UserError: lists every parameter that is missing, extra or of another shape.
    """
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
        self.unseen: tuple[int, list[str]] | None = None  # a save that was not looked at: its items
        options = ocp.CheckpointManagerOptions(
            step_prefix=PREFIX,
            max_to_keep=keep_last,
            cleanup_tmp_directories=True,
            save_root_metadata=False,
        )
        with self._reporting():
            self.manager = ocp.CheckpointManager(literal(run), options=options)

    def save(self, step: int, params: Tree, training: Tree | None, meta: dict[str, Any]) -> None:
        """Begin a save, and return when the arrays are copied.

        An earlier failure is raised here.
        """
        trees = {"params": params} | ({} if training is None else {"training": training})
        meta = meta | {"checksums": {item: checksums(tree) for item, tree in trees.items()}}
        items: dict[str, Any] = {
            item: ocp.args.StandardSave(tree, save_args=_chunks(tree))
            for item, tree in trees.items()
        }
        items["meta"] = ocp.args.JsonSave(meta | {"crc32": _crc(meta)})
        self.wait()  # before this save takes the place of an older one
        with self._reporting():
            self.manager.save(step, args=ocp.args.Composite(**items), force=True)
        self.unseen = (step, list(trees))

    def check(self) -> None:
        """Raise the error of a save in the background, if it failed."""
        with self._reporting():
            self.manager.check_for_errors()
        if not self.manager.is_saving_in_progress():
            self._look()

    def wait(self) -> None:
        with self._reporting():
            self.manager.wait_until_finished()
        self._look()

    def close(self) -> None:
        with self._reporting():
            self.manager.close()

    def _look(self) -> None:
        """Check that what restores the latest save is there; only then does it count."""
        if self.unseen is None or not messages.is_first():
            return
        step, items = self.unseen
        for item in items:
            folder = Place(self.run, step).folder / item
            if (name := damage.lacking(folder)) is not None:
                raise UserError(
                    f"{folder}: was saved without {name}, which no reader can do without; the "
                    "checkpoints before are as they were. Save elsewhere with --save DIR"
                )
        self.unseen = None

    @contextlib.contextmanager
    def _reporting(self):
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds for a failed write
            if messages.count() > 1 and damage.is_a_lost_connection(error):
                raise  # no fault of the disk: the watch knows who has ended
            kept = steps(self.run)
            newest = f"step {kept[-1]} is whole" if kept else "there was none before"
            raise UserError(
                f"{self.run}: a checkpoint could not be written ({damage.cause(error)}); {newest}. "
                "Free some space or save elsewhere, then run the same command again"
            ) from error


def save_config(run: Path, text: str) -> None:
    """Write `config.yml`, whole or not at all; make the run's folder.

    Raises:
        UserError: it cannot be written.
    """
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
    with _readable(place, item), _reader() as reader:
        return reader.restore(literal(place.folder / item), abstract)


def _restore_by_name(place: Place, item: str, abstract: Tree) -> Tree:
    """Restore by names, since parts of an optimizer without any array may come and go."""
    wanted, structure = jax.tree_util.tree_flatten_with_path(abstract)
    by_name = {_dotted(path): leaf for path, leaf in wanted}
    with _readable(place, item), _quiet(), _reader() as reader:
        there = reader.metadata(literal(place.folder / item)).item_metadata.tree
        asked = jax.tree_util.tree_map_with_path(lambda path, _: by_name[_dotted(path)], there)
        found = reader.restore(literal(place.folder / item), asked)
    leaves, _ = jax.tree_util.tree_flatten_with_path(found)
    read = {_dotted(path): leaf for path, leaf in leaves}
    return jax.tree_util.tree_unflatten(structure, [read[_dotted(path)] for path, _ in wanted])


@contextlib.contextmanager
def _quiet():
    """Silence Orbax's warning that an item has no metadata, which the step's folder has."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _readable(place: Place, item: str):
    """Turn errors of a damaged item into Damaged, and others into UserError.

    Nothing is put aside that merely cannot be read here.
    """
    folder = place.folder / item
    try:
        if damage.unmerged(folder):
            damage.merge(folder)
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
        kind = Damaged if damage.damaged(folder) else UserError
        raise _unreadable(place, damage.cause(error), kind) from error


def _unreadable(place: Place, cause: str, kind: type[UserError]) -> UserError:
    others = [step for step in steps(place.run) if step < place.step]
    hint = f"move it away to go on from {PREFIX}_{others[-1]}" if others else "there is no earlier"
    if kind is not Damaged:
        hint = "its bytes are not damaged: mend that and run the same command again"
    return kind(f"{place.folder}: the checkpoint cannot be read ({cause}); {hint}")


def _reader() -> ocp.StandardCheckpointer:
    """Make a reader for this process alone: if its part is damaged no other process waits."""
    if messages.count() == 1:
        return ocp.StandardCheckpointer()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=messages.index(), active_processes={messages.index()}
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def _chunks(tree: Tree) -> Tree:
    """Choose how arrays are cut in files: stacked layers one by one, and no chunk large.

    Whoever needs a part of an array, on another mesh say, then reads little else.
    """

    def save_args(path: Any, leaf: Any) -> ocp.SaveArgs:
        stacked = ".layers." in f".{_dotted(path)}" and len(leaf.shape) > 2
        return ocp.SaveArgs(chunk_byte_size=CHUNK, shard_axes=(0,) if stacked else ())

    return jax.tree_util.tree_map_with_path(save_args, tree)


def _crc(meta: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(json.loads(json.dumps(meta)), sort_keys=True).encode())


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Return shapes by dotted names, for named tuples as for Orbax's dictionaries."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_dotted(path): tuple(leaf.shape) for path, leaf in leaves}


_dotted = partial(jax.tree_util.keystr, simple=True, separator=".")
