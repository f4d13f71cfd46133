"""One case in a process of its own, forked from this one, with limits of time and memory."""

import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from tests.fuzz.outcome import MEGABYTES, Outcome, contents, judge

PATIENCE = 90  # seconds of the clock after which a case that does nothing is ended
HOME, STDERR = "home", "stderr"


def in_a_child(work: Callable[[], object]) -> int:
    """Do work in a child, and return its process's number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jax warns of forks; it has not started here
        child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(
    module: ModuleType | Any, argv: Sequence[str], folder: Path, limit: float, findings: int
) -> Outcome:
    """Run a command's `main` in a folder, and tell what became of it.

    Args:
        module: has the `main`.
        argv: its words.
        folder: its working directory; what it writes there, except below `out` and `home`, is a
            fault.
        limit: the seconds of the processor that it may take.
        findings: the status with which it tells on stdout what is wrong.
    """
    (folder / HOME).mkdir(exist_ok=True)
    before = contents(folder)
    began, own = time.monotonic(), _memory().own
    child = in_a_child(lambda: _command(module, argv, folder, limit))
    status, usage = _wait(child, began)
    errors = (folder / STDERR).read_text(errors="replace")
    last = (errors.strip().splitlines() or [""])[-1]
    seconds = usage.ru_utime + usage.ru_stime
    grown = max(0.0, usage.ru_maxrss / 1024 - own / 2**20)
    if status is None or status == -signal.SIGXCPU:
        return Outcome("hang", last, seconds, grown)
    if status == findings == 1 and not errors.strip():
        return Outcome("refused", last, seconds, grown)
    kind = judge(status, errors, seconds, grown, limit)
    written = {
        name for name in contents(folder).items() - before.items()
        if not name[0].startswith((f"{HOME}/", "out/", STDERR))
    }  # fmt: skip
    if kind in ("read", "refused") and written:
        kind, last = "wrote", f"{sorted(written)[0][0]}"
    return Outcome(kind, last, seconds, grown)


def _wait(child: int, began: float) -> tuple[int | None, Any]:
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), usage
        if time.monotonic() - began > PATIENCE:
            os.kill(child, signal.SIGKILL)
            _, _, usage = os.wait4(child, 0)
            return None, usage
        time.sleep(0.005)


def _command(module: Any, argv: Sequence[str], folder: Path, limit: float) -> None:
    os.chdir(folder)
    os.environ |= {"HOME": str(folder / HOME), "XDG_CACHE_HOME": str(folder / HOME)}
    for name, number in ((os.devnull, 1), (STDERR, 2)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds = int(limit) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    most = _memory().virtual + (4 * MEGABYTES << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    module.main(list(argv))


class Memory(NamedTuple):
    """Bytes of this process: of its address space, and in memory as far as a fork has them too."""

    virtual: int
    own: int


def _memory() -> Memory:
    virtual, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    page = resource.getpagesize()
    return Memory(virtual * page, (resident - shared) * page)
