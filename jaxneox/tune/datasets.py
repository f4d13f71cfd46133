"""Documents as datasets: one to train on, one that is held out."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxneox.data import documents
from jaxneox.data.writer import IndexedWriter
from jaxneox.errors import UserError
from jaxneox.preprocess.encode import UNSEEN, Encoder, Recipe

PURPOSES = {"train": "train on", "valid": "hold out"}
"""The splits, and what each is for."""

Row = tuple[NDArray[np.int32], ...]  # tokens [n], and labels [n] if there are any


@dataclass
class Counts:
    """Counts the documents of a split.

    Attributes:
        tokens: in all of them.
        learned: how many tokens have a loss.
        skipped: documents of which nothing would be learned, besides.
        sizes: tokens of each document.
    """

    tokens: int = 0
    learned: int = 0
    skipped: int = 0
    sizes: list[int] = field(default_factory=list)

    @property
    def documents(self) -> int:
        """How many there are."""
        return len(self.sizes)

    def add(self, row: Row) -> bool:
        """Count a document, and tell whether anything of it is learned."""
        learned = int(np.sum(row[1] != UNSEEN)) if len(row) > 1 else len(row[0])
        if not learned:
            self.skipped += 1
            return False
        self.tokens += len(row[0])
        self.learned += learned
        self.sizes.append(len(row[0]))
        return True


class Prepared(NamedTuple):
    """The datasets on disk.

    Attributes:
        train: counts of the documents to train on.
        valid: of those that are held out.
        keys: of the YAML, which name the files.
    """

    train: Counts
    valid: Counts
    keys: dict[str, list[str]]


def prepare(
    recipe: Recipe, files: Sequence[Path], folder: Path, held_out: float, seed: int
) -> Prepared:
    """Write the datasets of both splits, and their labels where documents have some.

    Args:
        recipe: how documents become tokens and labels.
        files: the documents.
        folder: where the datasets go, `{train,valid}_document` and `…_label_document`.
        held_out: the share of the documents that is not trained on.
        seed: decides which.

    Raises:
        UserError: a document cannot be used, or there is nothing to learn.
    """  # fmt: skip
    encoder = recipe.build()
    paths = _paths(folder, has_labels=len(encoder.dtypes) > 1)
    counts = {split: Counts() for split in PURPOSES}
    chance = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writers = {
            split: [
                stack.enter_context(IndexedWriter(path, np.int32))
                for key, path in paths.items()
                if key.startswith(split)
            ]
            for split in PURPOSES
        }
        for row in _rows(encoder, recipe.columns, files):
            split = "valid" if chance.random() < held_out else "train"
            if counts[split].add(row):
                for writer, values in zip(writers[split], row, strict=True):
                    writer.add(values)
        for split, purpose in PURPOSES.items():
            if not counts[split].documents:
                more = "" if split == "train" else "; give more, or --hold-out 0.5"
                raise UserError(f"{files[0]}: there are no documents to {purpose}{more}")
    keys = {key: [str(path)] for key, path in paths.items()}
    return Prepared(counts["train"], counts["valid"], keys)


def _paths(folder: Path, has_labels: bool) -> dict[str, Path]:
    """Name the datasets by the keys of the YAML: tokens, and labels if there are any."""
    paths = {}
    for split in PURPOSES:
        paths[f"{split}_data_paths"] = folder / f"{split}_document"
        if has_labels:
            paths[f"{split}_label_data_paths"] = folder / f"{split}_label_document"
    return paths


def _rows(encoder: Encoder, columns: Sequence[str], files: Sequence[Path]) -> Iterator[Row]:
    """Yield each document's tokens, and its labels if it has some."""
    for chunk in documents.chunks(files, columns):
        encoded = encoder.encode(chunk)
        each = []
        for (tokens, sizes), dtype in zip(encoded.rows, encoder.dtypes.values(), strict=True):
            values = np.frombuffer(tokens, dtype.newbyteorder("<")).astype(np.int32)
            ends = np.cumsum(np.frombuffer(sizes, "<i4"))[:-1]
            each.append(np.split(values, ends) if len(sizes) else [])
        yield from zip(*each, strict=True)
