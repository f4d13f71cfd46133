"""Chunks encoded by several processes, in order.

The processes are spawned, never forked, and need numpy and the tokenizer alone. They do not
outlive a parent that is killed, and leave Ctrl-C to it.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from jaxneox.data.documents import Chunk
from jaxneox.errors import UserError
from jaxneox.preprocess.encode import Encoded, Encoder, Recipe

AHEAD = 2  # chunks for each worker that wait or are under way

_encoder: Encoder  # of a worker process


def encoded(
    recipe: Recipe, chunks: Iterable[Chunk], workers: int
) -> Generator[Encoded, None, None]:
    """What becomes of each chunk, in their order. Close the generator to end the processes."""
    if workers == 1:
        yield from map(recipe.build().encode, chunks)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start, (recipe,))
    waiting: deque[Future[Encoded]] = deque()
    try:
        with _interrupts_ignored():  # the processes, which start now, inherit it
            pool.submit(int)
        for chunk in chunks:
            waiting.append(pool.submit(_encode, chunk))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, maybe for want of memory; the same command goes on "
            "where it stopped, try fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


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
    global _encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process each is enough
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _encoder = recipe.build()


def _encode(chunk: Chunk) -> Encoded:
    return _encoder.encode(chunk)


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
