"""Examples of preference training as fields of batches, and the loader that takes them."""
# R examples asked for, S tokens of a sample

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.batches import BatchSizes
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.loader import (
    ALL,
    HostBatch,
    OrderedLoader,
    RowNumbers,
    first_outside,
    outside_vocabulary,
)
from jaxneox.data.samples import Span

TOKENS = ("tokens", "kl_tokens")
"""The fields that hold tokens."""

Fields = dict[str, NDArray[Any]]


class Examples(Protocol):
    """A finite sequence of pairs or of rated texts; the loader asks for no more than this."""

    def __len__(self) -> int:
        """The examples of one pass."""
        ...

    def fields(self, numbers: NDArray[np.int64]) -> Fields:
        """Read these examples as fields [R, *]."""
        ...

    def spans(self, number: int) -> list[tuple[str, IndexedDataset, Span]]:
        """Say where the tokens of one example are, each span with the part of it that has them."""
        ...

    def locate(self, field: str, number: int, at: tuple[int, ...]) -> str:
        """Say where a token of an example is, by the field and the place in it."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Return all that decides the fields, as JSON."""
        ...


class ExampleBlend:
    """Examples of several datasets, example i by the two arrays of `order.blend_indices`."""

    def __init__(
        self,
        datasets: Sequence[Examples],
        dataset_index: NDArray[Any],
        dataset_sample_index: NDArray[np.int64],
        identity: dict[str, Any],
    ) -> None:
        self.datasets = datasets
        self.dataset_index, self.dataset_sample_index = dataset_index, dataset_sample_index
        self._identity = identity

    def __len__(self) -> int:
        return len(self.dataset_index)

    def fields(self, numbers: NDArray[np.int64]) -> Fields:
        chosen, samples = self.dataset_index[numbers], self.dataset_sample_index[numbers]
        parts = [
            (at, self.datasets[k].fields(samples[at]))
            for k in (np.unique(chosen).tolist() or [0])
            for at in [np.flatnonzero(chosen == k)]
        ]
        order = np.argsort(np.concatenate([at for at, _ in parts]), kind="stable")
        names = parts[0][1]
        return {name: np.concatenate([part[name] for _, part in parts])[order] for name in names}

    def spans(self, number: int) -> list[tuple[str, IndexedDataset, Span]]:
        dataset = self.datasets[self.dataset_index[number]]
        return dataset.spans(int(self.dataset_sample_index[number]))

    def locate(self, field: str, number: int, at: tuple[int, ...]) -> str:
        dataset = self.datasets[self.dataset_index[number]]
        return dataset.locate(field, int(self.dataset_sample_index[number]), at)

    def fingerprint(self) -> dict[str, Any]:
        children = [dataset.fingerprint() for dataset in self.datasets]
        return {**self._identity, "datasets": {str(k): child for k, child in enumerate(children)}}


class ExampleLoader(OrderedLoader):
    """Batches of examples, whose fields the kind of training decides.

    Args:
        examples: where they are read.
        sizes: the examples of each optimizer step.
        seq_length: S.
        vocab_size: tokens must be below it; None is no limit.
        drop_last: see `OrderedLoader`.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        sizes: BatchSizes,
        seq_length: int,
        vocab_size: int | None = None,
        drop_last: int | None = None,
    ) -> None:
        super().__init__(len(examples), sizes=sizes, seq_length=seq_length, drop_last=drop_last)
        self.examples = examples
        self._vocab_size = vocab_size

    def read(self, step: int, rows: RowNumbers = ALL) -> HostBatch:
        """Read the tokens and weights of a step's rows; pairs have tokens [R, 2, S + 1]."""
        fields = self.fields(step, rows)
        return HostBatch(fields["tokens"], fields["weights"])

    def fields(self, step: int, rows: RowNumbers = ALL) -> Fields:
        """Read rows of a step as fields.

        Raises:
            UserError: a token is outside of the vocabulary, or an example is not valid; says where.
        """
        numbers = self.numbers(step, rows)
        fields = self.examples.fields(numbers)
        for name in fields.keys() & set(TOKENS):
            tokens = fields[name]
            outside = first_outside(tokens, self._vocab_size)
            if outside is not None:
                where = self.examples.locate(name, int(numbers[outside[0]]), outside[1:])
                raise outside_vocabulary(where, tokens[outside], self._vocab_size)
            fields[name] = tokens.astype(np.int32, copy=False)
        return fields

    def fingerprint(self) -> dict[str, Any]:
        return {
            "samples": self.examples.fingerprint(),
            "wraps_at": self._usable,
            **self.sizes.identity(),
            "seq_length": self.seq_length,
        }
