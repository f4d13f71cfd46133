"""A folder that gets its name only when it is complete.

It grows as `DST.partial` and is renamed at the end, so that an interrupted conversion never leaves
a DST that looks complete; the next start of the same command removes the remains.
"""

import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO

from jaxneox.errors import UserError
from jaxneox.run_folder import on_disk

MARK = ".converting"


class Unproven(UserError):
    """Raised for a target that does not compute the same; its kept files say so by their name."""


class Staging:
    """A context, `with Staging(dst, nbytes) as folder`; `folder` becomes `dst` at the end.

    Raises:
        UserError: `dst` exists or is no path on a disk, another conversion writes it, or the
            disk has no room for `nbytes`.
    """

    def __init__(self, dst: Path, nbytes: int) -> None:
        on_disk(dst)
        self.dst = dst
        self.folder = dst.with_name(dst.name + ".partial")
        refuse_existing(dst)
        self._nbytes = nbytes
        self._lock: IO[str] | None = None

    def __enter__(self) -> Path:
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._clear()
            self._check_room()
            self.folder.mkdir()
            self._lock = (self.folder / MARK).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{self.dst}: cannot be written ({error.strerror})") from error
        return self.folder

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock:
            self._lock.close()
        if isinstance(error, Unproven):
            aside = self.dst.with_name(self.dst.name + ".unproven")
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / MARK).unlink()
            os.rename(self.folder, aside)
            return
        if error is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        try:
            refuse_existing(self.dst)
            os.rename(self.folder, self.dst)
        except (OSError, UserError):
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        (self.dst / MARK).unlink()

    def _clear(self) -> None:
        """Remove what an earlier conversion left when it was killed, and nothing else."""
        if not self.folder.exists():
            return
        mark = self.folder / MARK
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()  # killed before the mark was in it
            return
        if not mark.is_file():
            raise UserError(f"{self.folder}: is in the way; move it or choose another DST")
        with mark.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.dst}: another conversion is writing it") from None
            shutil.rmtree(self.folder)

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.folder.parent).free
        if free < self._nbytes:
            raise UserError(
                f"{self.dst}: no room on the disk: {self._nbytes / 1e9:.2f} GB are needed, "
                f"{free / 1e9:.2f} GB are free"
            )


def refuse_existing(dst: Path) -> None:
    if os.path.lexists(dst):
        raise UserError(f"{dst}: exists already; choose another DST or move it away")
