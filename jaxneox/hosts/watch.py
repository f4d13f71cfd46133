"""Ends a process soon after another has ended or hangs, with one line: who, and since when.

Each process writes a heartbeat once a second into the key-value store of jax's coordination
service. Process 0 judges them and publishes a verdict, which the others look for as often; they
watch their link to process 0 by themselves. A thread does it: the main one may be inside a step
that will never end, which is why the way out is `os._exit`.
"""

import contextlib
import json
import os
import sys
import threading
import time
from typing import Any, NoReturn

from jaxneox.hosts import messages
from jaxneox.hosts.ending import FAULT
from jaxneox.hosts.liveness import SILENCE, WHAT_TO_DO, Heartbeat, Liveness, clock

PERIOD = 1.0
READING_TIME = 3 * PERIOD  # process 0 stays so long after a verdict for the others to read it
MAX_REFUSAL = 5.0  # seconds for which process 0 refuses connections before it counts as gone
ROOT = "jaxneox/watch"


class Watchdog:
    """Watches the other processes from when all have joined; `mark` is told what this one does."""

    def __init__(self) -> None:
        self.client, self.index, self.count = messages.client(), messages.index(), messages.count()
        self.beat = Heartbeat(0, 0, "starting", True, 0.0)
        self.stepped: float | None = None
        self.answered = time.monotonic()
        self.failing: float | None = None
        self.closed = threading.Event()
        self.lock = threading.Lock()
        self.liveness = Liveness(self.count, self.answered)
        for work in (self._exchange, self._guard):
            threading.Thread(target=work, name="watch", daemon=True).start()

    def mark(self, doing: str, patient: bool) -> None:
        now = time.monotonic()
        with self.lock:
            longest = self.beat.longest
            if not (patient or self.beat.patient) and self.stepped is not None:
                longest = max(longest, now - self.stepped)
            self.stepped = now
            self.beat = Heartbeat(self.beat.turn, self.beat.progress + 1, doing, patient, longest)

    def close(self) -> None:
        self.closed.set()

    def stop_all(self, reason: str, status: int) -> None:
        """Tell the others why this process ends. Process 0 waits until they have read it."""
        line = f"process {self.index} stopped: {reason}"
        try:
            if self.index == 0:
                self._publish(line, status)
                time.sleep(READING_TIME)  # for the others to read it; our own threads have stopped
            else:
                self.client.key_value_set(
                    f"{ROOT}/stopped/{self.index}", json.dumps([line, status])
                )
        except Exception:  # the connection is gone, and with it those who would listen
            return

    def trouble(self) -> None:
        """Report a connection that the main thread lost, and wait for the verdict on the fault."""
        with contextlib.suppress(Exception):
            self.client.key_value_set(f"{ROOT}/trouble/{self.index}", "1", allow_overwrite=True)
        time.sleep(SILENCE + 2 * READING_TIME)

    def _exchange(self) -> None:
        while not self.closed.wait(PERIOD):
            try:
                self._once()
                self.answered, self.failing = time.monotonic(), None
            except Exception:  # told by _guard, if it lasts
                self.failing = self.failing or time.monotonic()

    def _once(self) -> None:
        with self.lock:
            self.beat = self.beat._replace(turn=self.beat.turn + 1)
            mine = json.dumps(self.beat)
        self.client.key_value_set(f"{ROOT}/beat/{self.index}", mine, allow_overwrite=True)
        if self.index:
            for _, text in self._all("verdict"):
                self._end(*json.loads(text))
            return
        stopped = self._all("stopped")
        if stopped:
            line, status = json.loads(stopped[0][1])
            self._conclude(line, status)
        beats = {i: Heartbeat(*json.loads(text)) for i, text in self._all("beat")}
        line = self.liveness(time.monotonic(), beats, bool(self._all("trouble")))
        if line:
            self._conclude(line, FAULT)

    def _all(self, folder: str) -> list[tuple[int, str]]:
        entries = self.client.key_value_dir_get(f"{ROOT}/{folder}/")
        return [(int(key.rpartition("/")[2]), text) for key, text in entries]

    def _conclude(self, line: str, status: int) -> None:
        if not self.closed.is_set():
            self._publish(line, status)
            time.sleep(READING_TIME)
            self._end(line, status)

    def _publish(self, line: str, status: int) -> None:
        self.client.key_value_set(f"{ROOT}/verdict/0", json.dumps([line, status]))

    def _guard(self) -> None:
        """Watch process 0, which may hang so that a question to it does too: only a clock tells."""
        before = time.monotonic()
        while not self.closed.wait(PERIOD):
            now = time.monotonic()
            if now - before > 5 * PERIOD:  # this process itself was stopped for a while
                self.answered = now
            before = now
            refused = self.failing is not None and now - self.failing > MAX_REFUSAL
            if self.index and (refused or now - self.answered > SILENCE):
                since = clock(now, self.answered)
                self._end(
                    f"process 0 has not answered since {since}: killed, stopped, or cut off from "
                    f"the network; {WHAT_TO_DO}",
                    FAULT,
                )

    def _end(self, line: str, status: int) -> None:
        if not self.closed.is_set():
            say_and_exit(line, status)


_watch: Watchdog | None = None


def start() -> None:
    global _watch
    _watch = Watchdog()


def stop() -> None:
    if _watch is not None:
        _watch.close()


def mark(doing: str, patient: bool = False) -> None:
    """Note what the main thread begins now, in words that follow "stuck"; nothing if it is alone.

    All processes mark the same work in the same order.
    """
    if _watch is not None:
        _watch.mark(doing, patient)


def running() -> Watchdog | None:
    return _watch


def say_and_exit(line: str, status: int, prefix: str | None = None) -> NoReturn:
    """Exit without the farewells of Python and C++, which would wait for the others."""
    prefix = messages.prefix() if prefix is None else prefix
    for stream in (sys.stdout, sys.stderr):
        flush(stream)
    os.write(2, f"{prefix}{line}\n".encode())
    os._exit(status)


def flush(stream: Any) -> None:
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
