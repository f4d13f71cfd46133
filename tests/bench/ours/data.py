"""The loader of training, on a .bin/.idx dataset of random documents."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from jaxneox.config import Settings
from jaxneox.data import Loader, open_loader
from jaxneox.data.writer import IndexedWriter
from tests.bench.kinds import BATCHES
from tests.bench.sizes import VOCABULARY, Case

PREFIX = "documents"
SIZES = (100, 2000)  # tokens of a document, the least and the most
PASS = 4  # the rows of all documents, in those of one run: about so many runs are one pass


def documents(tokens: int) -> Iterator[np.ndarray]:
    """uint16 [size], until there are so many tokens."""
    chance = np.random.default_rng(0)
    while tokens > 0:
        one = chance.integers(0, VOCABULARY, chance.integers(*SIZES), dtype=np.uint16)
        tokens -= len(one)
        yield one


def write(case: Case) -> Callable[[], None]:
    def run() -> None:
        with IndexedWriter(Path(case.folder) / PREFIX, np.uint16) as writer:
            for one in documents(PASS * BATCHES * case.batch * (case.length + 1)):
                writer.add(one)

    return run


def loader_of(case: Case) -> Loader:
    """Of the training split, which is all."""
    keys = case.keys | {"data_path": str(Path(case.folder) / PREFIX), "split": "100,0,0"}
    loader = open_loader(Settings(keys).resolve(dp=1, vocab_size=None).data_run, None, "train")
    assert loader is not None
    return loader


def prepare(case: Case) -> Callable[[], int]:
    """-> the next batches int32 [batch, length + 1], shuffled; returns a token."""
    loader, steps = loader_of(case), itertools.count()

    def run() -> int:
        for _ in range(BATCHES):
            tokens = loader.batch(next(steps))
        return int(tokens[-1, -1])

    return run
