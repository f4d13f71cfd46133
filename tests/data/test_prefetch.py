"""The prefetcher: order, how far ahead, exceptions when due, a clean end."""

import contextlib
import itertools
import threading

import pytest

from jaxneox.data.prefetch import prefetch


def running() -> bool:
    return any(thread.name == "prefetch" for thread in threading.enumerate())


def test_steps_in_order_from_start() -> None:
    with contextlib.closing(prefetch(lambda step: step * step, 3)) as steps:
        assert list(itertools.islice(steps, 4)) == [(3, 9), (4, 16), (5, 25), (6, 36)]
        assert running()
    assert not running()


def test_never_more_than_depth_ahead() -> None:
    begun: list[int] = []
    third = threading.Event()

    def fn(step: int) -> int:
        begun.append(step)
        if step == 2:
            third.set()
        return step

    with contextlib.closing(prefetch(fn, 0, depth=2)) as steps:
        next(steps)
        assert third.wait(5)  # 0 is in use, 1 and 2 were computed meanwhile
        assert begun == [0, 1, 2]
    assert begun == [0, 1, 2]


def test_exception_is_raised_when_its_step_is_due() -> None:
    def fn(step: int) -> int:
        if step == 2:
            raise ValueError("no step 2")
        return step

    steps = prefetch(fn, 0, depth=5)
    assert next(steps) == (0, 0)
    assert next(steps) == (1, 1)
    with pytest.raises(ValueError, match="no step 2"):
        next(steps)
    assert not running()


def test_close_before_and_in_the_middle_of_use() -> None:
    prefetch(lambda step: step, 0).close()
    steps = prefetch(lambda step: step, 0)
    next(steps)
    steps.close()
    assert not running()
