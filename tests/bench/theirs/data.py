"""Hugging Face's datasets: the same tokens, packed into rows beforehand, in a mapped Arrow file."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset, load_from_disk

from tests.bench.kinds import BATCHES
from tests.bench.ours.data import PREFIX
from tests.bench.sizes import Case


def rows_of(case: Case) -> Dataset:
    """uint16 [length + 1] each, in a random order."""
    folder, width = Path(case.folder), case.length + 1
    tokens = np.fromfile(folder / f"{PREFIX}.bin", np.uint16)
    packed = tokens[: len(tokens) // width * width].reshape(-1, width)
    Dataset.from_dict({"tokens": packed}).save_to_disk(folder / "rows")
    return load_from_disk(folder / "rows").with_format("numpy").shuffle(seed=0)


def prepare(case: Case) -> Callable[[], int]:
    """-> the next batches int32 [batch, length + 1], shuffled; returns a token."""
    batches = endless(rows_of(case), case.batch)

    def run() -> int:
        for _ in range(BATCHES):
            found = next(batches)
        return int(found[-1, -1])

    return run


def endless(rows: Dataset, batch: int) -> Iterator[np.ndarray]:
    while True:
        for part in rows.iter(batch, drop_last_batch=True):
            yield part["tokens"].astype(np.int32)
