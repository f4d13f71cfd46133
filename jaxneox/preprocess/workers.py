"""Encodes chunks by several processes, in order.

The processes are spawned, never forked, and need numpy and the tokenizer alone. They do not
outlive a parent that is killed, and leave Ctrl-C to it.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from jaxneox.data.documents import Chunk
from jaxneox.errors import UserError
from jaxneox.preprocess.encode import Encoded, Encoder, Recipe

_recipe: Recipe  # of a worker process


@contextlib.contextmanager
def processes(recipe: Recipe, count: int) -> Iterator[ProcessPoolExecutor | None]:
    """Start processes; None for a single one, which is this."""
    if count == 1:
        yield None
        return
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _start, (recipe,))
    try:
        with _interrupts_ignored():  # the processes, which are made now, inherit it
            for _ in range(count):
                pool.submit(int)
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def encoded(
    encoder: Encoder, chunks: Iterable[Chunk], pool: ProcessPoolExecutor | None, ahead: int
) -> Iterator[Encoded]:
    """Yield what becomes of each chunk, in their order; `ahead` of them wait or are under way."""
    if pool is None:
        yield from map(encoder.encode, chunks)
        return
    waiting: deque[Future[Encoded]] = deque()
    started = pool.submit(int)
    try:
        for chunk in chunks:
            if not started.done():  # nobody else works yet
                yield encoder.encode(chunk)
                continue
            waiting.append(pool.submit(_encode, chunk))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, maybe for want of memory; the same command goes on "
            "where it stopped, try fewer --workers"
        ) from error


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start(recipe: Recipe) -> None:
    global _recipe
    _recipe = recipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for one that was made later
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process each is enough
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(UserError):  # the parent meets the same one
        _encoder()


@functools.cache
def _encoder() -> Encoder:
    return _recipe.build()


def _encode(chunk: Chunk) -> Encoded:
    return _encoder().encode(chunk)


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
