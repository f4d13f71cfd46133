"""One run at a time in a run's folder.

Process 0 holds `.lock` in the folder for as long as it lives: by flock, which the system releases
in whatever way a process ends, so that nothing stale is ever in the way. The file says who holds
it. Readers never ask for it. It works over NFS where the server knows locks, as Linux does by
default; a mount with `nolock` or `local_lock=flock` shares no locks between hosts. Where a file
system has no flock, what the file says decides.
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from jaxneox.errors import UserError
from jaxneox.hosts import messages

NAME = ".lock"
DYING = 5.0  # seconds for which a process that has no number any more may hold it: it frees memory
KILLED = 1.0  # the same for one that has still a number: it may have been killed just now
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def locked(run: Path | None) -> Iterator[None]:
    """Hold a run's folder, which is made if need be, so that no other run saves into it.

    Of several processes only the first holds it. A folder that this process cannot write to is not
    held: whoever writes there first reports it.

    Raises:
        UserError: another run holds the folder.
    """
    if run is None or not messages.is_first():
        yield
        return
    made = _made(run)
    file = None
    try:
        with suppress(PermissionError):
            file = _taken(run)
        yield
    finally:
        if file is not None:
            with suppress(OSError):  # while it is held: nobody else's
                os.unlink(run / NAME)
            file.close()
        with suppress(OSError):  # a run that was refused leaves no folder of its own
            for folder in made:
                folder.rmdir()


def _made(run: Path) -> list[Path]:
    """Make the folder, and return those that were missing, the innermost first."""
    missing = [folder for folder in (run, *run.parents) if not os.path.lexists(folder)]
    with suppress(OSError):  # reported by whoever writes there first
        run.mkdir(parents=True, exist_ok=True)
    return missing


def _taken(run: Path) -> IO[str] | None:
    """Return the open lock file, which this process now holds; None if there is no folder."""
    path, begun = run / NAME, time.monotonic()
    while True:
        try:
            file = open(path, "a+")  # noqa: SIM115  (held beyond this function)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EROFS):
                return None
            raise
        if _free(file):
            if _is(file, path):
                _sign(file)
                os.register_at_fork(after_in_child=file.close)  # a child would hold it as well
                return file
            file.close()  # its holder has ended and removed it in between
            continue
        holder = _holder(file)
        file.close()
        if time.monotonic() - begun > (KILLED if _lives(holder) else DYING):
            raise _in_use(run, holder)
        time.sleep(0.1)


def _free(file: IO[str]) -> bool:
    """Lock the file if nobody else does; on a file system without flock, ask what it says."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in UNSUPPORTED:
            holder = _holder(file)
            return not holder or (_is_here(holder) and not _lives(holder))
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False


def _is(file: IO[str], path: Path) -> bool:
    """Tell whether the open file still has its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _sign(file: IO[str]) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = {"host": socket.gethostname(), "process": os.getpid(), "since": since}
    file.truncate(0)
    file.write(json.dumps(holder))
    file.flush()


def _holder(file: IO[str]) -> dict[str, Any]:
    """Read from the file who holds it; empty if it does not say (yet)."""
    file.seek(0)
    try:
        return {"host": None, "process": None, "since": None} | json.loads(file.read())
    except (ValueError, TypeError, OSError):
        return {}


def _is_here(holder: dict[str, Any]) -> bool:
    return holder.get("host") == socket.gethostname()


def _lives(holder: dict[str, Any]) -> bool:
    """Tell whether the holder runs; of another host's process nothing else can be known."""
    if not holder or not _is_here(holder):
        return bool(holder)
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, TypeError, ValueError):
        return True
    return True


def _in_use(run: Path, holder: dict[str, Any]) -> UserError:
    who = "another process"
    if holder:
        who = f"process {holder['process']} on {holder['host']} since {holder['since']}"
    return UserError(
        f"{run}: is in use by {who}; wait for its end or stop it, or save in "
        f"another folder with --save DIR (or, if it is known to have ended, remove {run / NAME})"
    )
