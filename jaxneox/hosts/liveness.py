"""Which of several processes has died or is stuck, judged by what each says once a second.

It uses no threads, clocks or network, so that every case can be tried.
"""

import time
from collections.abc import Mapping
from typing import NamedTuple

SILENCE = 20.0  # seconds without a sign of life
SILENCE_IN_TROUBLE = 8.0  # the same when another process has already lost a connection
BEHIND = 20.0  # seconds that one may need more than the others before a step, at least
STILL = 600.0  # seconds without any progress at all, at least
PAUSE = 5.0  # if this check itself was paused for so long, no process is blamed

WHAT_TO_DO = (
    "all processes stop. See to that host, then start all again with the same command: it "
    "continues from the newest checkpoint"
)


class Heartbeat(NamedTuple):
    """A sign of life, which each process gives once a second.

    All pass through the same work in the same order: `progress` counts it, `doing` names it. Work
    that may take any time (compiling, saving) is `patient`.

    Attributes:
        turn: counts the heartbeats.
        progress: counts the pieces of work.
        doing: names the present one, in words that follow "stuck".
        patient: whether it may take any time.
        longest: seconds of the longest step until now.
    """

    turn: int
    progress: int
    doing: str
    patient: bool
    longest: float


class Seen(NamedTuple):
    """The latest heartbeat of a process, when it was heard, and when its progress last changed."""

    beat: Heartbeat
    heard: float  # when `turn` changed last
    moved: float  # when `progress` did


class Liveness:
    """Judges the heartbeats of `count` processes."""

    def __init__(self, count: int, now: float):
        unknown = Heartbeat(-1, -1, "starting", True, 0.0)
        self.seen = {i: Seen(unknown, now, now) for i in range(count)}
        self.before = now

    def __call__(
        self, now: float, beats: Mapping[int, Heartbeat], trouble: bool = False
    ) -> str | None:
        """Return one line that names the process at fault; None while all is well."""
        if now - self.before > PAUSE:  # this process itself was stopped: all begin anew
            self.seen = {i: Seen(s.beat, now, now) for i, s in self.seen.items()}
        self.before = now
        for i, beat in beats.items():
            old = self.seen[i]
            self.seen[i] = Seen(
                beat,
                old.heard if beat.turn == old.beat.turn else now,
                old.moved if beat.progress == old.beat.progress else now,
            )
        return self._silent(now, trouble) or self._behind(now) or self._still(now)

    def _silent(self, now: float, trouble: bool) -> str | None:
        limit = SILENCE_IN_TROUBLE if trouble else SILENCE
        silent = {i: s.heard for i, s in self.seen.items() if now - s.heard > limit}
        if not silent:
            return None
        since = f"{clock(now, min(silent.values()))}"
        has = "has" if len(silent) == 1 else "have"
        return (
            f"{named(silent)} {has} given no sign of life since {since}: killed, stopped, or cut "
            f"off from the network; {WHAT_TO_DO}"
        )

    def _behind(self, now: float) -> str | None:
        first = max(s.beat.progress for s in self.seen.values())
        limit = max(BEHIND, 2 * max(s.beat.longest for s in self.seen.values()))
        late = {
            i: s
            for i, s in self.seen.items()
            if s.beat.progress < first and not s.beat.patient and now - s.moved > limit
        }
        if not late:
            return None
        worst = min(late.values(), key=lambda s: s.beat.progress)
        verb = "is" if len(late) == 1 else "are"
        return (
            f"{named(late)} {verb} stuck {worst.beat.doing} since {clock(now, worst.moved)} while "
            f"the others wait; {WHAT_TO_DO}"
        )

    def _still(self, now: float) -> str | None:
        latest = max(s.moved for s in self.seen.values())
        limit = max(STILL, 10 * max(s.beat.longest for s in self.seen.values()))
        if any(s.beat.patient for s in self.seen.values()) or now - latest <= limit:
            return None
        return (
            f"no process has got any further since {clock(now, latest)}, all are "
            f"{self.seen[0].beat.doing}: a device or the network between them hangs; {WHAT_TO_DO}"
        )


def named(processes: Mapping[int, object]) -> str:
    numbers = ", ".join(map(str, sorted(processes)))
    return f"process {numbers}" if len(processes) == 1 else f"processes {numbers}"


def clock(now: float, then: float) -> str:
    """Format an earlier reading of a monotonic clock: `14:03:07 (21 s ago)`."""
    ago = now - then
    return f"{time.strftime('%H:%M:%S', time.localtime(time.time() - ago))} ({ago:.0f} s ago)"
