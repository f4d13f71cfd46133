"""Contenders that do nothing, for the tests."""

from collections.abc import Callable

from tests.bench.clock import Seconds
from tests.bench.sizes import Case


def ours(case: Case) -> Callable[[], Seconds]:
    return lambda: Seconds(2)


def twice(case: Case) -> Callable[[], Seconds]:
    """Takes twice as long, and says something."""

    def run() -> Seconds:
        print("no answer")
        return Seconds(4)

    return run


def dies(case: Case) -> Callable[[], None]:
    def run() -> None:
        raise MemoryError("no room")

    return run
