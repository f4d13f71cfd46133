"""Computes the next batches while the device works on this one."""

import itertools
import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")


def prefetch(
    fn: Callable[[int], T], start: int, depth: int = 2
) -> Generator[tuple[int, T], None, None]:
    """Yield (step, fn(step)) for step = start, start + 1, …, computed by a thread ahead of use.

    At most `depth` results wait or are under way. What `fn` raises is raised here, when its step
    is due. Closing the generator (`contextlib.closing`) ends the thread.
    """
    ready: queue.SimpleQueue[tuple[int, T] | BaseException] = queue.SimpleQueue()
    free = threading.Semaphore(depth)
    closed = threading.Event()

    def work() -> None:
        for step in itertools.count(start):
            free.acquire()
            if closed.is_set():
                return
            try:
                ready.put((step, fn(step)))
            except BaseException as error:
                ready.put(error)
                return

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            result = ready.get()
            if isinstance(result, BaseException):
                raise result
            free.release()
            yield result
    finally:
        closed.set()
        free.release()
        thread.join()
