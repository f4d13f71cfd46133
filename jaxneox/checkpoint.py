"""Reads checkpoints, which `saver` writes with Orbax.

A run is a folder with `config.yml`, `tokenizer/`, `metrics.jsonl` and one folder `step_N` for each
checkpoint: `params` (the flat dictionary), `training` (optimizer and counters, absent when weights
alone were saved) and `meta` (the configuration's keys, the data's fingerprint, versions, checksums
of the arrays). A step is written under a temporary name and renamed when it is whole, so whatever
interrupts a save leaves the ones before it as they were. All processes of a run write and read
their parts of the arrays, in one folder that they share.
"""

import contextlib
import logging
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import jax

from jaxneox import damage
from jaxneox.checksums import Sums, checksums, differing, dotted
from jaxneox.config import load_yaml
from jaxneox.errors import UserError
from jaxneox.hosts import messages
from jaxneox.literal import literal
from jaxneox.metadata import read_metadata
from jaxneox.reading import refuse_odd_files
from jaxneox.run_folder import PREFIX, Location, find, on_disk, put_aside, run_of, steps

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

Tree = Any
__all__ = [
    "Location",
    "find",
    "on_disk",
    "put_aside",
    "run_of",
    "steps",
]  # of jaxneox.run_folder, for all users


class Damaged(UserError):
    """A checkpoint that is not what was saved; another one may still be whole."""


def read_meta(location: Location) -> dict[str, Any]:
    """Read a checkpoint's `meta` as the plain JSON that it is: Orbax would start jax's devices."""
    try:
        return read_metadata(location.folder / "meta" / "metadata")
    except (OSError, ValueError, RecursionError) as error:
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        proven = gone or not isinstance(error, OSError)
        raise _unreadable(
            location, damage.cause(error), Damaged if proven else UserError
        ) from error


def read_keys(location: Location) -> dict[str, Any]:
    """Read the run's `config.yml`; for a step that was copied alone, the keys saved with it."""
    config = location.run / "config.yml"
    return load_yaml([config]) if config.is_file() else read_meta(location)["keys"]


def read_shapes(location: Location, item: str = "params") -> dict[str, tuple[int, ...]]:
    """Read the shapes of all arrays of an item, by dotted names."""
    with _readable(location, item), quiet(), _reader() as reader:
        metadata = reader.metadata(literal(location.folder / item)).item_metadata
        if metadata is None:
            raise ValueError(f"{item} has no readable metadata")
        return _shapes(metadata.tree)


def restore_params(
    location: Location,
    abstract: dict[str, jax.ShapeDtypeStruct],
    leaving_out: Collection[str] = (),
) -> dict[str, jax.Array]:
    """Read the weights straight into the shardings of `abstract`.

    Args:
        location: the checkpoint.
        abstract: shapes with shardings by name.
        leaving_out: parameters that may be in the checkpoint, and are not read.

    Raises:
        UserError: the checkpoint has other parameters, or cannot be read.
    """
    expected = {name: leaf.shape for name, leaf in abstract.items()}
    check_same_model(location, expected, leaving_out)
    if abstract.keys() == read_shapes(location).keys():
        return _restore(location, "params", abstract)
    return _restore_part(location, "params", abstract)


def restore_training(location: Location, abstract: Tree) -> Tree:
    """Read optimizer and counters, laid out as `abstract`."""
    if not (location.folder / "training").is_dir():
        if "training" in read_meta(location).get("checksums", {}):
            raise _unreadable(location, "its folder training is missing", Damaged)
        raise UserError(
            f"{location.folder}: holds weights alone (no-save-optim); start from them with "
            "--finetune"
        )
    saved, expected = read_shapes(location, "training"), _shapes(abstract)
    if saved != expected:
        parts = sorted({name for name, _ in saved.items() ^ expected.items()})
        raise UserError(
            f"{location.folder}: its optimizer is another one ({len(parts)} of its arrays differ, "
            f"the first is {parts[0]}); restore the optimizer's keys, weight-decay, trainable and "
            "gradient-clipping, or take the weights alone with --finetune and another --save"
        )
    return _restore_by_name(location, "training", abstract)


def check_sums(location: Location, **items: Tree) -> None:
    """Check that the arrays of each item are what was saved.

    Older checkpoints have no sums to check. All processes of a mesh must call this.

    Raises:
        Damaged: an array has other numbers.
    """
    saved = read_meta(location).get("checksums", {})
    for item, tree in items.items():
        wrong = differing(checksums(tree), saved[item]) if item in saved else []
        if wrong:
            cause = f"{len(wrong)} arrays of {item} have other numbers than saved: {wrong[0]}"
            raise _unreadable(location, cause, Damaged)


def params_sums(location: Location, params: dict[str, jax.Array]) -> Sums:
    """Return the checksums of a checkpoint's parameters, computed if an older one has none.

    Args:
        location: the checkpoint.
        params: its parameters as they were read, in float32 if it has no sums.

    All processes of a mesh must call this.
    """
    saved: Sums | None = read_meta(location).get("checksums", {}).get("params")
    return checksums(params) if saved is None else saved


def check_same_model(
    location: Location, expected: dict[str, tuple[int, ...]], leaving_out: Collection[str] = ()
) -> None:
    """Check that a checkpoint has the parameters of a model, and no more but for `leaving_out`.

    Raises:
        UserError: lists every parameter that is missing, extra or of another shape.
    """
    saved = {n: shape for n, shape in read_shapes(location).items() if n not in leaving_out}
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - saved.keys())]
    wrong += [f"{name} is not in this model" for name in sorted(saved.keys() - expected.keys())]
    wrong += [
        f"{name} is {list(saved[name])} there and {list(shape)} here"
        for name, shape in sorted(expected.items())
        if name in saved and saved[name] != tuple(shape)
    ]
    if wrong:
        raise UserError(f"{location.folder} is a checkpoint of another model: " + "; ".join(wrong))


def _restore(location: Location, item: str, abstract: Tree) -> Tree:
    with _readable(location, item), _reader() as reader:
        return reader.restore(literal(location.folder / item), abstract)


def _restore_part(location: Location, item: str, abstract: dict[str, Any]) -> dict[str, Any]:
    """Restore the arrays that `abstract` names; the item has more of them, which are not read."""
    import orbax.checkpoint as ocp  # late: it takes a sixth of a start

    asked = ocp.args.PyTreeRestore(
        item=abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=True,
    )
    options = _processes()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    with (
        _readable(location, item),
        quiet(),
        ocp.Checkpointer(handler, multiprocessing_options=options) as reader,
    ):
        restored: dict[str, Any] = reader.restore(literal(location.folder / item), args=asked)
        return restored


def _restore_by_name(location: Location, item: str, abstract: Tree) -> Tree:
    """Restore by names, since parts of an optimizer without any array may come and go."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(abstract)
    by_name = {dotted(path): leaf for path, leaf in leaves}
    with _readable(location, item), quiet(), _reader() as reader:
        there = reader.metadata(literal(location.folder / item)).item_metadata.tree
        asked = jax.tree_util.tree_map_with_path(lambda path, _: by_name[dotted(path)], there)
        restored = reader.restore(literal(location.folder / item), asked)
    restored_leaves, _ = jax.tree_util.tree_flatten_with_path(restored)
    read = {dotted(path): leaf for path, leaf in restored_leaves}
    return jax.tree_util.tree_unflatten(structure, [read[dotted(path)] for path, _ in leaves])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Orbax's warnings of what is missing and not wanted, such as metadata of an item."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _readable(location: Location, item: str) -> Iterator[None]:
    """Turn errors of a damaged item into Damaged, and others into UserError.

    Nothing is put aside that merely cannot be read here.
    """
    folder = location.folder / item
    try:
        refuse_odd_files(folder)
        if damage.unmerged(folder):
            damage.merge(folder)
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
        kind = Damaged if damage.damaged(folder) else UserError
        raise _unreadable(location, damage.cause(error), kind) from error


def _unreadable(location: Location, cause: str, kind: type[UserError]) -> UserError:
    others = [step for step in steps(location.run) if step < location.step]
    hint = f"move it away to go on from {PREFIX}_{others[-1]}" if others else "there is no earlier"
    if kind is not Damaged:
        hint = "its bytes are not damaged: mend that and run the same command again"
    return kind(f"{location.folder}: the checkpoint cannot be read ({cause}); {hint}")


def _reader() -> "ocp.StandardCheckpointer":
    import orbax.checkpoint as ocp

    return ocp.StandardCheckpointer(multiprocessing_options=_processes())


def _processes() -> "ocp.options.MultiprocessingOptions":
    """Let this process read alone: if its part is damaged no other process waits."""
    import orbax.checkpoint as ocp

    if messages.count() == 1:
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(
        primary_host=messages.index(), active_processes={messages.index()}
    )


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Return shapes by dotted names, for named tuples as for Orbax's dictionaries."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {dotted(path): tuple(leaf.shape) for path, leaf in leaves}
