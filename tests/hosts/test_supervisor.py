"""The parent that starts the command, starts it again, and tidies what C++ says."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxneox.hosts import ending
from tests.limits import PATIENCE

ROOT = Path(__file__).resolve().parents[2]

LOST = """\
I am Python
E1122 13:42:20.643954   15050 coordination_service.cc:1549] [126] Use error polling to propagate \
the following error to all tasks: UNAVAILABLE: The following tasks are unhealthy (stopped sending \
heartbeats):
1
The tasks have crashed. Check the task logs for an earlier error
F1122 13:38:55.636259   14581 client.h:80] Terminating process because the JAX distributed service \
detected fatal errors. absl::Status: UNAVAILABLE

RPC: /xla.coordination.CoordinationService/PollForError [type.googleapis.com/tensorflow]
*** Check failure stack trace: ***
    @     0x7f92b2440634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""


def script(folder: Path, text: str) -> list[str]:
    """Counts its starts in `starts`; `n` is the number of this one."""
    head = f"import os, sys\nplace = {str(folder / 'starts')!r}\nopen(place, 'a').write('x')\n"
    path = folder / "script.py"
    path.write_text(f"{head}n = len(open(place).read())\n{text}")
    return [sys.executable, str(path)]


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text())


def supervised(command: list[str], restarts: int, prefix: str) -> tuple[int, str]:
    """Status and stderr of a supervisor in its own process: it forks, which jax forbids here."""
    call = f"supervisor.supervise({command}, {restarts}, {prefix!r})"
    code = (
        f"from jaxneox.hosts import supervisor; supervisor.SETTLE = 0; supervisor.sys.exit({call})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "restarts", "status", "count"),
    [
        ("sys.exit(0 if n == 3 else 75)", 5, 0, 3),
        ("sys.exit(1)", 2, 1, 3),
        ("sys.exit(2)", 5, 2, 1),
        ("sys.exit(130)", 5, 130, 1),
        ("os.kill(os.getpid(), 9) if n == 1 else sys.exit(0)", 1, 0, 2),
        ("os.kill(os.getpid(), 11)", 0, 139, 1),
    ],
)
def test_restarts(text: str, restarts: int, status: int, count: int, tmp_path: Path) -> None:
    code, err = supervised(script(tmp_path, text), restarts, "process 3: ")
    assert code == status
    assert starts(tmp_path) == count
    lines = [line for line in err.splitlines() if "starting again" in line]
    assert len(lines) == count - 1 and all(
        line.startswith("process 3: ended with") for line in lines
    )


@pytest.mark.slow
def test_the_supervisor_lives_without_jax() -> None:
    code = "import sys, jaxneox.hosts.supervisor; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_the_c_trace_becomes_one_line(tmp_path: Path) -> None:
    text = f"sys.stderr.write({LOST!r})\nsys.stderr.flush()\nos.abort()"
    code, err = supervised(script(tmp_path, text), 0, "process 2: ")
    lines = err.splitlines()
    assert code == ending.FAULT
    assert lines[0] == "I am Python" and len(lines) == 2
    assert lines[1].startswith("process 2: process 1 has given no sign of life: killed, stopped")


@pytest.mark.slow
def test_other_crashes_are_told_whole(tmp_path: Path) -> None:
    words = "F1122 13:38:55.636259   14581 dso.cc:80] Check failed: x == y\n    @  0x7f  frame()\n"
    text = f"sys.stderr.write({words!r})\nsys.stderr.flush()\nos.abort()"
    told = words + "ended by signal SIGABRT\n"
    assert supervised(script(tmp_path, text), 0, "") == (128 + signal.SIGABRT, told)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_child_and_end_the_restarts(
    number: signal.Signals, tmp_path: Path
) -> None:
    text = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\ntime.sleep(60)"
    command = script(tmp_path, text)
    call = f"supervisor.supervise({command}, 5, '')"
    code = f"from jaxneox.hosts import supervisor; supervisor.sys.exit({call})"
    outer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import signal; signal.signal(2, signal.default_int_handler); {code}",
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + PATIENCE
    while not (tmp_path / "starts").exists() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.3)
    outer.send_signal(number)
    assert outer.wait(PATIENCE) == 128 + number
    assert starts(tmp_path) == 1
