"""Documents as datasets: one to train on, one that is held out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxneox.data import documents
from jaxneox.data.writer import IndexedWriter
from jaxneox.errors import UserError
from jaxneox.preprocess.encode import UNSEEN, Encoder, Recipe
from jaxneox.preprocess.prompts import CHOSEN, REJECTED, SIDES
from jaxneox.preprocess.rewards import NUMBER, stored_type

PURPOSES = {"train": "train on", "valid": "hold out"}
"""The splits, and what each is for."""

BESIDE = LABEL, REWARD = "_label", "_reward"
"""How the datasets beside texts are called."""

Columns = Mapping[str, NDArray[Any]]
"""A document of each dataset: tokens [n], labels [n] if there are any, a reward [1]."""


@dataclass
class Counts:
    """Counts the documents of a split.

    Attributes:
        tokens: in all of them; in pairs, of both sides.
        learned: how many tokens have a loss.
        skipped: documents of which nothing would be learned, besides.
        sizes: tokens of each document; of a pair, of its longer side.
        rewards: of each document, if they have some.
    """

    tokens: int = 0
    learned: int = 0
    skipped: int = 0
    sizes: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    @property
    def documents(self) -> int:
        """How many there are."""
        return len(self.sizes)

    def add(self, row: Columns) -> bool:
        """Count a document, and tell whether anything of it is learned."""
        texts = [values for name, values in row.items() if not name.endswith(BESIDE)]
        labels = [values for name, values in row.items() if name.endswith(LABEL)] or texts
        equal = len(texts) > 1 and np.array_equal(texts[0], texts[1])
        learned = sum(int(np.sum(values != UNSEEN)) for values in labels)
        if not learned or equal:
            self.skipped += 1
            return False
        self.tokens += sum(map(len, texts))
        self.learned += learned
        self.sizes.append(max(map(len, texts)))
        self.rewards += [float(values[0]) for name, values in row.items() if name.endswith(REWARD)]
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
        folder: where the datasets go, such as `{train,valid}_document` and `…_label_document`.
        held_out: the share of the documents that is not trained on.
        seed: decides which.

    Raises:
        UserError: a document cannot be used, or there is nothing to learn.
    """  # fmt: skip
    encoder = recipe.build()
    counts = {split: Counts() for split in PURPOSES}
    chance = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writers = {
            split: {
                name: stack.enter_context(IndexedWriter(_path(folder, split, name), np.int32))
                for name in encoder.dtypes
                if not name.endswith(REWARD)
            }
            for split in PURPOSES
        }
        for row in _rows(encoder, recipe.columns, files):
            split = "valid" if chance.random() < held_out else "train"
            if counts[split].add(row):
                for name, writer in writers[split].items():
                    writer.add(row[name])
        for split, purpose in PURPOSES.items():
            if not counts[split].documents:
                more = "" if split == "train" else "; give more, or --hold-out 0.5"
                raise UserError(f"{files[0]}: there are no documents to {purpose}{more}")
    for name in encoder.dtypes:
        if name.endswith(REWARD):
            for split, count in counts.items():
                _write_rewards(_path(folder, split, name), count.rewards)
    keys = {
        _key(split, name): [str(_path(folder, split, name))]
        for split in PURPOSES
        for name in encoder.dtypes
    }
    return Prepared(counts["train"], counts["valid"], keys)


def _key(split: str, name: str) -> str:
    """Return the key of the YAML that names a dataset."""
    text, beside = _parts(name)
    side = {CHOSEN: "pos_", REJECTED: "neg_"}.get(text, "")
    return f"{side}{split}{beside}_data_paths"


def _path(folder: Path, split: str, name: str) -> Path:
    """Return the path of a dataset; only those of pairs have the names of their keys."""
    text, beside = _parts(name)
    side = f"_{text}" if text in SIDES else ""
    return folder / f"{split}{side}{beside}_document"


def _parts(name: str) -> tuple[str, str]:
    """Divide the name of a dataset into that of its texts, and what it has beside them."""
    beside = next((end for end in BESIDE if name.endswith(end)), "")
    return name.removesuffix(beside), beside


def _write_rewards(path: Path, rewards: Sequence[float]) -> None:
    values = np.array(rewards, NUMBER)
    with IndexedWriter(path, stored_type(values)) as writer:
        for value in values.astype(writer.dtype):
            writer.add([value])


def _rows(encoder: Encoder, columns: Sequence[str], files: Sequence[Path]) -> Iterator[Columns]:
    """Yield each document, by the names of the datasets."""
    for chunk in documents.chunks(files, columns):
        encoded = encoder.encode(chunk)
        each = []
        for (tokens, sizes), dtype in zip(encoded.rows, encoder.dtypes.values(), strict=True):
            values = np.frombuffer(tokens, dtype.newbyteorder("<"))
            ends = np.cumsum(np.frombuffer(sizes, "<i4"))[:-1]
            each.append(np.split(values, ends) if len(sizes) else [])
        for row in zip(*each, strict=True):
            yield dict(zip(encoder.dtypes, row, strict=True))
