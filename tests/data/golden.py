"""The corpora and arrays that the real programs left, for the tests that compare with them."""

import hashlib
import pathlib

import numpy as np
import pytest
from numpy.typing import NDArray

from jaxneox.data.indexed import IndexedDataset

EOD, PAD = 0, 1  # <|endoftext|> and <|padding|> of the 20B tokenizer


def corpus(shared: pathlib.Path, name: str) -> str:
    """`neox_corpus_a_text` and its like as a prefix."""
    return str(shared / "golden" / "data" / "corpora" / f"{name}_document")


def open_corpus(shared: pathlib.Path, name: str) -> IndexedDataset:
    return IndexedDataset(corpus(shared, name))


def arrays(shared: pathlib.Path, folder: str, name: str) -> dict[str, NDArray]:
    path = shared / "golden" / "data" / folder / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not among the golden cases here: set JAXNEOX_SHARED")
    with np.load(path) as found:
        return dict(found)


def names(shared: pathlib.Path, folder: str) -> set[str]:
    return {path.stem for path in (shared / "golden" / "data" / folder).glob("*.npz")}


def sha256(*parts: NDArray) -> str:
    """Of the rows one after the other, each as int64."""
    digest = hashlib.sha256()
    for row in zip(*parts, strict=True):
        for values in row:
            digest.update(values.astype("<i8").tobytes())
    return digest.hexdigest()
