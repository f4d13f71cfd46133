"""The rows of texts of which a run needs log-probabilities, and the files that they go to."""
# N documents, R rows, S tokens of a sample; a row has S + 1

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from jaxneox.config.data_schema import DataConfig
from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.data import Split, Tokenizer
from jaxneox.data.build import open_dataset
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.mismatched import Mismatched
from jaxneox.data.neox import FILL
from jaxneox.data.order.packed import SampleIndex
from jaxneox.data.reference_record import identity_of_rows
from jaxneox.data.samples import IndexedSamples
from jaxneox.data.storage import Url
from jaxneox.data.useful import Side, useful_documents
from jaxneox.errors import UserError

SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class ScoredTexts:
    """Rows of texts, one for each document of a dataset.

    Attributes:
        to: the prefix of the file of their log-probabilities.
        count: N, the rows.
        read: returns rows by their numbers, int [R, S + 1].
        rows: what decides the rows, as their record has it.
    """

    to: Path
    count: int
    read: Callable[[NDArray[np.int64]], NDArray[Any]]
    rows: dict[str, Any]


def texts_of(
    data: DataConfig, objective: ObjectiveConfig, seq_length: int, tokenizer: Tokenizer | None
) -> Iterator[ScoredTexts]:
    """List the texts of all splits, each dataset once.

    Args:
        data: where they are.
        objective: names the reference model; KTO also needs the texts of its baseline.
        seq_length: S.
        tokenizer: for datasets that are text.

    Raises:
        UserError: a dataset is missing or has no use.
    """
    seen: set[str] = set()
    for split in SPLITS:
        source = data.source(split)
        labels: list[str | None] = [*source.labels, *source.rejected_labels]
        paths = [*source.paths, *source.rejected]
        for path, label in zip(paths, labels or [None] * len(paths), strict=True):
            if path in seen:
                continue
            seen.add(path)
            dataset = open_dataset(path, tokenizer)
            rows = whole_documents(dataset, seq_length)
            to, read = beside(dataset, objective, ""), partial(tokens_of, rows)
            yield ScoredTexts(to, len(dataset), read, identity_of_rows(dataset, seq_length))
            if objective.kind == "kto" and not objective.as_neox and label is not None:
                side = Side(dataset, open_dataset(label, tokenizer))
                yield mismatched(rows, side, data, objective, seq_length, split)


def mismatched(
    rows: IndexedSamples,
    side: Side,
    data: DataConfig,
    objective: ObjectiveConfig,
    seq_length: int,
    split: str,
) -> ScoredTexts:
    """Return each document's prompt with another's completion, as KTO's baseline reads them."""
    useful = useful_documents(
        [side],
        seq_length=seq_length,
        pack=data.pack,
        allow_chopped=data.allow_chopped,
        split=split,
    )
    others = Mismatched(rows, side.prompts, useful, seq_length, None)
    to = beside(side.texts, objective, "_kl")
    decide = identity_of_rows(side.texts, seq_length, side.prompts, useful)
    return ScoredTexts(to, len(side.texts), partial(tokens_of, others), decide)


def tokens_of(rows: IndexedSamples | Mismatched, numbers: NDArray[np.int64]) -> NDArray[Any]:
    """Read the tokens of rows."""
    return rows.read(numbers).tokens


def whole_documents(dataset: IndexedDataset, seq_length: int) -> IndexedSamples:
    """Read each document as a row, cut after S + 1 tokens or filled up to them."""
    count = len(dataset)
    starts = np.stack([np.arange(count + 1), np.zeros(count + 1, np.int64)], axis=1)
    index = SampleIndex(np.arange(count + 1) % count, starts, np.arange(count))
    return IndexedSamples(
        dataset, None, index,
        seq_length=seq_length, length=count, extra=0, fill=FILL, identity={},
    )  # fmt: skip


def beside(dataset: IndexedDataset, objective: ObjectiveConfig, suffix: str) -> Path:
    """Return where a run looks for the log-probabilities of a dataset.

    Raises:
        UserError: nothing can be written there.
    """
    prefix = dataset.prefix
    if isinstance(prefix, Url):
        raise UserError(
            f"{prefix}: log-probabilities are written beside their dataset, and nothing is written "
            "to an address: copy the dataset to this machine"
        )
    return prefix.with_name(f"{prefix.name}_{objective.reference}{suffix}")
