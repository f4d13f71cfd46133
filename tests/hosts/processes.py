"""Several real processes of `train.py` on this machine, and what is done to them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Processes:
    """One run of `count` processes; use it in a `with`, which leaves none behind.

    `program` is another than train.py, in this folder. `each` are arguments in which {i} is the
    process.
    """

    def __init__(
        self,
        count: int,
        folder: Path,
        *args: str | Path,
        program: str | None = None,
        each: Sequence[str] = (),
        **env: str,
    ):
        self.folder = folder
        port = free_port()
        start = [str(ROOT / "train.py")]
        if program:
            start = ["-m", f"tests.hosts.{program}"]
        self.all = [
            self._start(
                i, count, port, start, [*map(str, args), *(e.format(i=i) for e in each)], env
            )
            for i in range(count)
        ]

    def _start(
        self, i: int, count: int, port: int, start: list[str], args: list[str], env: dict[str, str]
    ) -> Any:
        which = (f"--coordinator=localhost:{port}", f"--num-processes={count}", f"--process-id={i}")
        out, err = (self.folder / f"{name}.{i}" for name in ("out", "err"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            return subprocess.Popen(
                [sys.executable, *start, *which, *args],
                cwd=ROOT,
                env=environment() | env,
                stdout=stdout,
                stderr=stderr,
            )

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.all:
            process.kill()  # its child dies with it
            process.wait()

    def wait(self, seconds: float = 120) -> list[Ended]:
        end = time.monotonic() + seconds
        for process in self.all:
            process.wait(max(0.1, end - time.monotonic()))
        return [self.ended(i) for i in range(len(self.all))]

    def ended(self, i: int) -> Ended:
        texts = ((self.folder / f"{name}.{i}").read_text() for name in ("out", "err"))
        return Ended(self.all[i].returncode, *texts)

    def children(self) -> list[int | None]:
        """The processes that do the work; None where there is none just now."""
        return [child_of(process.pid) for process in self.all]

    def worker(self, i: int) -> int:
        wait_for(lambda: self.children()[i])
        child = self.children()[i]
        assert child is not None
        return child


def together(count: int, folder: Path, *args: str | Path, **env: str) -> list[Ended]:
    with Processes(count, folder, *args, **env) as processes:
        return processes.wait()


def environment() -> dict[str, str]:
    """One device a process unless the mesh says more; compiled programs are shared by all tests."""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return env | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONUNBUFFERED": "1",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("localhost", 0))
        return place.getsockname()[1]


def child_of(pid: int) -> int | None:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(found[0]) if found else None


def alive(pid: int) -> bool:
    """Not even as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid, number)


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.001)


def steps_done(run: Path) -> int:
    """The last step in a run's metrics."""
    try:
        lines = (run / "metrics.jsonl").read_bytes().splitlines()
    except OSError:
        return 0
    return len(lines)


def half_written(run: Path) -> list[Path]:
    return list(run.glob("step_*.orbax-checkpoint-tmp"))
