"""A supervisor that runs the command as its child, filters its stderr and restarts it if asked.

It does not import jax: it must live when that does not. jax's own way to end a process whose
process 0 is gone is SIGABRT amid a C++ trace, which becomes one line here.
"""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from jaxneox.console.say import tell
from jaxneox.hosts.ending import FAULT, NO_RESTART

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the package: a clone, or an environment's folder of packages."""

CHILD = "JAXNEOX_CHILD"  # set for the child, so that it does the work itself
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
SETTLE = 5.0  # seconds before a new start: ports close, other hosts notice

# What C++ says between Python's lines: glog's `F1122 13:38:55.636259 14581 client.h:80] …`, the
# lines it continues on, and the stack of a fatal one.
GLOG = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+:\d+\]")
LOST = re.compile(
    r"distributed service detected fatal errors|coordination_service(_agent)?\.cc:\d+\]"
)
FOLLOWS = re.compile(
    r"\s+@ |\*\*\* Check failure|RPC: |Additional GRPC|:(UNKNOWN|UNAVAILABLE)|\d+$|$|The tasks have"
)


def this_program(words: Sequence[str]) -> tuple[str, ...]:
    """Return the command that starts this program anew, whatever the working folder contains."""
    return (sys.executable, "-P", "-m", "jaxneox", *words)


def child_environment() -> dict[str, str]:
    """Return the child's environment; a clone's child runs the clone's own code."""
    env = os.environ | {CHILD: "1"}
    if (ROOT / "pyproject.toml").is_file():
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return env


def supervise(command: Sequence[str], restarts: int, prefix: str) -> int:
    """Run the command, and at most `restarts` times again; return the last one's status."""
    left = restarts
    while True:
        status, ending_signals = once(command, prefix)
        if status in NO_RESTART or ending_signals or not left:
            return status
        left -= 1
        tell(f"{prefix}ended with {meaning(status)}; starting again, {left} more to go")
        time.sleep(SETTLE)


def once(command: Sequence[str], prefix: str) -> tuple[int, bool]:
    """Run the child once.

    Returns:
        Its status, as a shell writes it, and whether a signal to the supervisor asked for the end.
    """
    child = subprocess.Popen(
        command, env=child_environment(), stderr=subprocess.PIPE, preexec_fn=die_with_supervisor
    )
    stderr = StderrFilter(prefix)
    assert child.stderr is not None
    reader = threading.Thread(target=stderr.copy, args=(child.stderr,), daemon=True)
    reader.start()
    with forwarding(child) as ending_signals:
        code = child.wait()
    reader.join(5)
    if not reader.is_alive():  # else a grandchild holds the other end
        child.stderr.close()
    if code < 0 and stderr.lost:
        tell(
            f"{prefix}{stderr.cause()} (noticed at {time.strftime('%H:%M:%S')}); all processes "
            "stop. See to that host, then start all again with the same command: it continues "
            "from the newest checkpoint"
        )
        return FAULT, bool(ending_signals)
    if code < 0:
        tell(f"{prefix}ended by {meaning(128 - code)}")
        return 128 - code, bool(ending_signals)
    return code, bool(ending_signals)


@contextlib.contextmanager
def forwarding(child: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Pass on the signals that a user or a scheduler sends, and collect those that end a run.

    A terminal's Ctrl-C has reached the child by itself.
    """
    ending_signals: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            ending_signals.append(number)
        if not (number == signal.SIGINT and is_foreground()):
            child.send_signal(number)

    before = {number: signal.getsignal(number) for number in PASSED_ON}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    try:
        yield ending_signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_foreground() -> bool:
    """Tell whether Ctrl-C reaches this process group, the terminal's foreground one."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


class StderrFilter:
    """Copies stderr line by line, without what jax's C++ says when a connection is lost."""

    def __init__(self, prefix: str):
        self.prefix, self.lost, self.dropping = prefix, False, False
        self.dropped: list[str] = []

    def copy(self, stream: IO[bytes]) -> None:
        for raw in stream:
            if self.keeps(raw.decode(errors="replace").rstrip("\n")):
                sys.stderr.buffer.write(raw)
                sys.stderr.flush()

    def keeps(self, line: str) -> bool:
        if GLOG.match(line):
            self.dropping = bool(LOST.search(line))
            self.lost |= self.dropping and line.startswith("F")
        elif self.dropping and not FOLLOWS.match(line):
            self.dropping = False
        if self.dropping:
            self.dropped = [*self.dropped[-50:], line]
        return not self.dropping

    def cause(self) -> str:
        """Summarise what jax's coordination service had to say."""
        report = "\n".join(self.dropped)
        if again := re.search(r"(\d+) unexpectedly tried to connect with a diff", report):
            return f"process {again[1]} has ended and was started again"
        if silent := re.search(r"stopped sending heartbeats\):\n([\d\n]+)", report):
            numbers = ", ".join(silent[1].split())
            return f"process {numbers} has given no sign of life: killed, stopped, or cut off"
        return "the connection to process 0 was lost: it was killed, has crashed or is cut off"


def meaning(status: int) -> str:
    if status > 128:
        with contextlib.suppress(ValueError):
            name = signal.Signals(status - 128).name
            hint = " (out of memory?)" if name == "SIGKILL" else ""
            return f"signal {name}{hint}"
    return f"status {status}"


def die_with_supervisor() -> None:
    """Arrange, in the child, for SIGKILL when the supervisor ends in whatever way (Linux only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
