"""Whole passes over the training data (`train_epochs`), each in an order of its own.

A pass has every sample of every dataset once. Each pass is shuffled anew, documents and samples, by
the run's seed plus the number of the pass; so the order depends neither on how many passes there
are nor on the batch. A sample is S + 1 tokens of one dataset's documents, joined end to end; the
rest that fills none is left out, in each pass another one.
"""
# R samples asked for, S tokens of a sample

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxneox.config.data_schema import DataConfig
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.label_datasets import check_in_step
from jaxneox.data.neox import Open, packed_samples
from jaxneox.data.order.split import split_documents
from jaxneox.data.sample_request import SampleRequest
from jaxneox.data.samples import IndexedSamples, Rows, Span

ORDER = "epochs"
SEEDS = 2**32  # NumPy's generator takes no larger ones


class TrainSource(NamedTuple):
    """What is trained on of a dataset: the tokens, their labels if there are any, and which."""

    dataset: IndexedDataset
    labels: IndexedDataset | None
    documents: range

    def samples(self, seq_length: int) -> int:
        """Count the samples of a pass."""
        sizes = self.dataset.sizes[self.documents.start : self.documents.stop]
        return max(0, int(np.sum(sizes, dtype=np.int64)) - 1) // seq_length


def train_sources(data: DataConfig, open_: Open) -> list[TrainSource]:
    """Open what is trained on: a part of one dataset, or several of them whole."""
    if data.path is not None:
        dataset = open_(data.path)
        return [TrainSource(dataset, None, split_documents(data.split, len(dataset))[0])]
    texts = [open_(path) for path in data.train.paths]
    labels: list[Any] = [open_(path) for path in data.train.labels] or [None] * len(texts)
    for text, label in zip(texts, labels, strict=True):
        if label is not None:
            check_in_step(text, label)
    return [TrainSource(t, k, range(len(t))) for t, k in zip(texts, labels, strict=True)]


class Epochs:
    """The samples of pass after pass, without an end: sample i is one of pass i // N.

    Attributes:
        endless: whether samples go on past the length of a pass.
    """

    endless = True

    def __init__(self, sources: Sequence[TrainSource], request: SampleRequest):
        """Take the samples of all passes.

        Args:
            sources: what is trained on.
            request: the length of a sample, and the seed.
        """
        self._request = request
        self._sources = [s for s in sources if s.samples(request.seq_length)]
        self._sizes = [source.samples(request.seq_length) for source in self._sources]
        self._of_pass = lru_cache(2)(self._build)

    def __len__(self) -> int:
        """The samples of a pass."""
        return sum(self._sizes)

    def read(self, numbers: NDArray[np.int64]) -> Rows:
        """Read the rows of these samples, see `Samples`."""
        each = [samples.read(np.array([inside])) for samples, inside in self._places(numbers)]
        tokens = np.concatenate([rows.tokens for rows in each])
        if all(rows.counted is None for rows in each):
            return Rows(tokens, None)
        counted = [
            np.ones(rows.tokens.shape, bool) if rows.counted is None else rows.counted
            for rows in each
        ]
        return Rows(tokens, np.concatenate(counted))

    def documents(self, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
        """Number the documents of these samples' rows, see `Samples`."""
        places = self._places(numbers)
        return np.concatenate([samples.documents(np.array([k])) for samples, k in places])

    def spans(self, number: int) -> list[tuple[IndexedDataset, Span]]:
        """Say where the tokens of one sample are, see `Samples`."""
        ((samples, inside),) = self._places(np.array([number]))
        return samples.spans(inside)

    def fingerprint(self) -> dict[str, Any]:
        """Return all that decides what `read` returns; how many passes there are does not."""
        children = {
            str(k): {
                "documents": [source.documents.start, source.documents.stop],
                "text": {source.dataset.prefix.name: source.dataset.content},
                "labels": {source.labels.prefix.name: source.labels.content}
                if source.labels is not None
                else {},
            }
            for k, source in enumerate(self._sources)
        }
        settings = {"seq_length": self._request.seq_length, "seed": self._request.seed}
        return {"order": ORDER, **settings, "datasets": children}

    def _places(self, numbers: NDArray[np.int64]) -> list[tuple[IndexedSamples, int]]:
        """Find the dataset of each of these samples, in its order of that pass, and which it is."""
        places = []
        for number in np.asarray(numbers).tolist():
            samples, order = self._of_pass(number // len(self))
            inside = number % len(self) if order is None else int(order[number % len(self)])
            for one, size in zip(samples, self._sizes, strict=True):
                if inside < size:
                    places.append((one, inside))
                    break
                inside -= size
        return places

    def _build(self, number: int) -> tuple[list[IndexedSamples], NDArray[np.int64] | None]:
        """Shuffle each dataset for a pass, and the samples of several among one another."""
        request = self._request._replace(seed=(self._request.seed + number) % SEEDS, epochs=1)
        samples = [packed_samples(s.dataset, s.labels, s.documents, request) for s in self._sources]
        if len(samples) == 1:
            return samples, None
        return samples, np.random.RandomState(request.seed).permutation(len(self))
