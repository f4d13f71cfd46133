"""Contenders one after the other, round by round, each in its own process."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from tests.bench.kinds import OURS, Kind
from tests.bench.sizes import Case

WITHOUT_GPU = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # jax would take three quarters at once


class Ended(Exception):
    """One line: which contender has ended before it was done, and its last words."""


@dataclass
class Contender:
    """A process that runs when asked to; a context manager."""

    name: str
    at: str  # module:function
    case: Case
    environment: dict[str, str]
    first: float = 0.0  # seconds, with what is compiled
    seconds: list[float] = field(default_factory=list)
    memory: int = 0

    def __enter__(self) -> Self:
        command = [sys.executable, "-W", "ignore", "-m", "tests.bench.contender", self.at]
        self._said = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [*command, json.dumps(asdict(self.case))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=os.environ | self.environment,
            text=True,
        )
        return self

    def ask(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which its answer will say
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise Ended(f"{self.name}: its process has ended ({status}): {self._last_words()}")
        return json.loads(line)

    def run(self) -> float:
        self.ask()
        return self.answer()["seconds"]

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = [line.strip() for line in self._said if line.strip()]
        return lines[-1] if lines else "it said nothing"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            if kind is None:
                self._process.stdin.close()
                self.memory = self.answer()["memory"]
            else:
                self._process.kill()
        finally:
            self._process.wait()
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.stdout.close()
            self._said.close()


@dataclass(frozen=True)
class Result:
    """By the contenders' names: the seconds of each round, those of the first run, with what is
    compiled and in the company of the others, and the most bytes at once."""

    kind: Kind
    case: Case
    seconds: dict[str, list[float]]
    first: dict[str, float]
    memory: dict[str, int]

    @cached_property
    def median(self) -> dict[str, float]:
        return {name: statistics.median(each) for name, each in self.seconds.items()}

    @property
    def ratio(self) -> float | None:
        """The median over the rounds of the better peer's time by ours; None without a peer."""
        if not self.kind.peers:
            return None
        best = min(self.kind.peers, key=self.median.__getitem__)
        pairs = zip(self.seconds[best], self.seconds[OURS], strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "what": self.kind.named(self.case),
            "case": asdict(self.case),
            "seconds": self.seconds,
            "median": self.median,
            "ratio": self.ratio,
            "first": self.first,
            "memory": self.memory,
        }


def measure(kind: Kind, case: Case, rounds: int, *, gpu: bool) -> Result:
    """Raises Ended where a contender does."""
    environment = SHARED_GPU if gpu and not kind.host else WITHOUT_GPU
    with tempfile.TemporaryDirectory() as folder:
        here = replace(case, folder=folder)
        if kind.files:
            with Contender("its files", kind.files, here, environment) as writer:
                writer.run()
        all_ = [Contender(name, at, here, environment) for name, at in kind.contenders.items()]
        for group in [[one] for one in all_] if case.alone else [all_]:
            take_turns(group, rounds)
    return Result(
        kind,
        case,
        {one.name: one.seconds for one in all_},
        {one.name: one.first for one in all_},
        {one.name: one.memory for one in all_},
    )


def take_turns(contenders: Sequence[Contender], rounds: int) -> None:
    with contextlib.ExitStack() as stack:
        for one in contenders:
            stack.enter_context(one)
            one.ask()
        for one in contenders:
            one.first = one.answer()["seconds"]
        for one in contenders:
            one.run()  # what is allocated once
        for _ in range(rounds):
            for one in contenders:
                one.seconds.append(one.run())
