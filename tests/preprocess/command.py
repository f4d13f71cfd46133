"""The command as the tests call it, and what it leaves."""

import pathlib

import numpy as np
import pytest

from jaxneox.data.indexed import IndexedDataset
from jaxneox.preprocess.command import main

CHAR = ["--tokenizer-type", "CharLevelTokenizer", "--append-eod"]


def call(path: pathlib.Path, prefix: pathlib.Path, *more: str, workers: int = 1) -> int:
    words = ["--input", str(path), "--output-prefix", str(prefix), "--workers", str(workers), *more]
    return status_of(words)


def status_of(words: list[str]) -> int:
    """Run the command in this process and return its exit status."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def made(prefix: pathlib.Path) -> dict[str, bytes]:
    """All files of a prefix, by the rest of their names; nothing hidden may be left."""
    assert not list(prefix.parent.glob(".*"))
    found = prefix.parent.glob(f"{prefix.name}_*")
    return {path.name.removeprefix(prefix.name): path.read_bytes() for path in sorted(found)}


def texts(prefix: pathlib.Path, key: str = "text") -> list[str]:
    dataset = IndexedDataset(f"{prefix}_{key}_document")
    return [dataset.get(i).astype(np.uint8).tobytes().decode() for i in range(len(dataset))]
