"""Contenders one after the other, round by round, each in its own process."""

import contextlib
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.bench.sizes import Case

NAMES = ("ours", "eager", "compiled")


@dataclass
class Worker:
    name: str
    kind: str
    case: Case
    first: float = 0.0  # seconds, with what is compiled
    seconds: list[float] = field(default_factory=list)
    peak: int = 0

    def __enter__(self) -> Self:
        words = [self.name, self.kind, *map(str, self.case)]
        command = [sys.executable, "-W", "ignore", "-m", "tests.bench.worker", *words]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def run(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}, {self.kind}, {self.case.name}: its process has ended")
        return json.loads(line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self.peak = self._answer()["peak"]
        else:
            self._process.kill()
        self._process.wait()


@dataclass
class Result:
    """Seconds are medians; `ratio` is the median over the rounds of the best peer's by ours."""

    case: Case
    kind: str
    seconds: dict[str, float]
    first: dict[str, float]
    peak: dict[str, int]
    ratio: float


def measure(case: Case, kind: str, rounds: int) -> Result:
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(name, kind, case)) for name in NAMES]
        for worker in workers:
            worker.first = worker.run()
            worker.run()  # what is allocated once
        for _ in range(rounds):
            for worker in workers:
                worker.seconds.append(worker.run())
    by = {worker.name: worker for worker in workers}
    median = {name: statistics.median(worker.seconds) for name, worker in by.items()}
    best = min(NAMES[1:], key=median.__getitem__)
    pairs = zip(by[best].seconds, by["ours"].seconds, strict=True)
    return Result(
        case,
        kind,
        median,
        {name: worker.first for name, worker in by.items()},
        {name: worker.peak for name, worker in by.items()},
        statistics.median(theirs / ours for theirs, ours in pairs),
    )
