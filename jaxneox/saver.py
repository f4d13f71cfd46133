"""Writes a run's folder: checkpoints with Orbax, in the background, and `config.yml`."""

import contextlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from jaxneox import damage
from jaxneox.checkpoint import Tree
from jaxneox.checksums import checksums, dotted
from jaxneox.errors import UserError
from jaxneox.hosts import messages
from jaxneox.literal import literal
from jaxneox.metadata import crc
from jaxneox.run_folder import PREFIX, Location, steps

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

CHUNK = 64 << 20
"""Bytes of an array that are read together, at least."""


class Saver:
    """Writes a run's checkpoints in the background and removes old ones."""

    def __init__(self, run: Path, keep_last: int | None = None):
        self.run, self.keep_last = run, keep_last
        self.unseen: tuple[int, list[str]] | None = None  # a save that was not looked at: its items

    @cached_property
    def manager(self) -> "ocp.CheckpointManager":
        """Orbax's manager of the folder, made for the first save: a start waits for no import."""
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(
            step_prefix=PREFIX,
            max_to_keep=self.keep_last,
            cleanup_tmp_directories=True,
            save_root_metadata=False,
        )
        return ocp.CheckpointManager(literal(self.run), options=options)

    @property
    def has_saved(self) -> bool:
        """Whether a save was begun."""
        return "manager" in self.__dict__

    def save(self, step: int, params: Tree, training: Tree | None, meta: dict[str, Any]) -> None:
        """Begin a save, and return when the arrays are copied.

        An earlier failure is raised here.
        """
        import orbax.checkpoint as ocp

        trees = {"params": params} | ({} if training is None else {"training": training})
        meta = meta | {"checksums": {item: checksums(tree) for item, tree in trees.items()}}
        items: dict[str, Any] = {
            item: ocp.args.StandardSave(tree, save_args=_chunks(tree))
            for item, tree in trees.items()
        }
        items["meta"] = ocp.args.JsonSave(meta | {"crc32": crc(meta)})
        with self._reporting():
            manager = self.manager
        self.wait()  # before this save takes the place of an older one
        with self._reporting():
            manager.save(step, args=ocp.args.Composite(**items), force=True)
        self.unseen = (step, list(trees))

    def check(self) -> None:
        """Raise the error of a save in the background, if it failed."""
        if not self.has_saved:
            return
        with self._reporting():
            self.manager.check_for_errors()
        if not self.manager.is_saving_in_progress():
            self._look()

    def wait(self) -> None:
        if not self.has_saved:
            return
        with self._reporting():
            self.manager.wait_until_finished()
        self._look()

    def close(self) -> None:
        if not self.has_saved:
            return
        with self._reporting():
            self.manager.close()

    def _look(self) -> None:
        """Check that what restores the latest save is there; only then does it count."""
        if self.unseen is None or not messages.is_first():
            return
        step, items = self.unseen
        for item in items:
            folder = Location(self.run, step).folder / item
            if (name := damage.missing_file(folder)) is not None:
                raise UserError(
                    f"{folder}: was saved without {name}, which no reader can do without; the "
                    "checkpoints before are as they were. Save elsewhere with --save DIR"
                )
        self.unseen = None

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many kinds for a failed write
            if messages.count() > 1 and damage.is_a_lost_connection(error):
                raise  # no fault of the disk: the watchdog knows who has ended
            kept = steps(self.run)
            newest = f"step {kept[-1]} is whole" if kept else "there was none before"
            raise UserError(
                f"{self.run}: a checkpoint could not be written ({damage.cause(error)}); {newest}. "
                f"{damage.remedy(error)}, then run the same command again"
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


def _chunks(tree: Tree) -> Tree:
    """Choose how arrays are cut in files: stacked layers one by one, and no chunk large.

    Whoever needs a part of an array, on another mesh say, then reads little else.
    """
    import orbax.checkpoint as ocp

    def save_args(path: Any, leaf: Any) -> ocp.SaveArgs:
        stacked = ".layers." in f".{dotted(path)}" and len(leaf.shape) > 2
        return ocp.SaveArgs(chunk_byte_size=CHUNK, shard_axes=(0,) if stacked else ())

    return jax.tree_util.tree_map_with_path(save_args, tree)
