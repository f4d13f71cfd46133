"""The tokens of samples: rows gathered from a dataset by an index, and blends of such samples."""
# R samples asked for, S tokens of a sample; a row has S + 1

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.order.packed import SampleIndex
from jaxneox.errors import UserError

MASKED = -100  # in a label dataset: no loss here


class Rows(NamedTuple):
    """The tokens of rows, [R, S + 1], and which of them count as labels if some may not."""

    tokens: NDArray[Any]
    counted: NDArray[np.bool_] | None


class Span(NamedTuple):
    """A range of tokens of one document in one row; all integers."""

    row: int
    column: int
    document: int
    offset: int
    length: int


class Samples(Protocol):
    """A sequence of samples; the loader asks for no more than this."""

    @property
    def endless(self) -> bool:
        """Whether samples go on past the length of a pass; else it begins again."""
        ...

    def __len__(self) -> int:
        """The samples of one pass."""
        ...

    def read(self, numbers: NDArray[np.int64]) -> Rows:
        """Read the rows of these samples."""
        ...

    def documents(self, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
        """Number the documents of these samples' rows, from 1, at each of their tokens: [R, S + 1].

        What fills up a row has the number 0.
        """
        ...

    def spans(self, number: int) -> list[tuple[IndexedDataset, Span]]:
        """Say where the tokens of one sample are, from left to right."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Return all that decides what `read` returns, as JSON."""
        ...


class IndexedSamples:
    """Samples of one dataset by an index.

    A row is all that lies between the begin of its sample and that of the next, and `extra` tokens
    more; it is cut after S + 1 tokens, and filled up to them.

    Args:
        labels: a dataset of the same sizes that holds each token again, or -100 to mask it.
        length: the samples of one pass.
        extra: 1 or 0, tokens that a row shares with the next.
        fill: what a short row is filled with; it is not counted where there are labels.
        identity: what the fingerprint says besides the data.
    """

    endless = False

    def __init__(
        self,
        dataset: IndexedDataset,
        labels: IndexedDataset | None,
        index: SampleIndex,
        *,
        seq_length: int,
        length: int,
        extra: int,
        fill: int,
        identity: dict[str, Any],
    ) -> None:
        self.dataset, self.labels, self.index = dataset, labels, index
        self._width, self._length, self._extra, self._fill = seq_length + 1, length, extra, fill
        self._identity = identity

    def __len__(self) -> int:
        return self._length

    def read(self, numbers: NDArray[np.int64]) -> Rows:
        """Read samples, see `Samples`.

        Raises:
            UserError: a label is neither -100 nor the token itself.
        """
        return self.read_at(self.columns(numbers), len(numbers))

    def read_at(self, at: Sequence[NDArray[np.int64]], rows: int) -> Rows:
        """Read `rows` rows of the spans with these columns; see `read`."""
        tokens = self._gather(self.dataset, at, rows, self._fill)
        if self.labels is None:
            return Rows(tokens, None)
        labels = self._gather(self.labels, at, rows, MASKED)
        counted = labels != MASKED
        different = np.argwhere(counted & (labels != tokens))
        if len(different):
            row, column = different[0]
            raise UserError(
                f"{place(self.labels, *_covering(at, row, column))} is {labels[row, column]}, the "
                f"token there is {tokens[row, column]}; a label must be its token, or {MASKED}"
            )
        return Rows(tokens, counted)

    def documents(self, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
        row, column, _, _, length = self.columns(numbers)
        found = np.zeros((len(numbers), self._width), np.int32)
        in_row = np.arange(len(row)) - np.searchsorted(row, row) + 1
        for r, begin, size, number in zip(row, column, length, in_row, strict=True):
            found[r, begin : begin + size] = number
        return found

    def spans(self, number: int) -> list[tuple[IndexedDataset, Span]]:
        columns = self.columns(np.array([number]))
        return [(self.dataset, Span(*map(int, span))) for span in zip(*columns, strict=True)]

    def first_documents(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the document with which each of these samples begins, int64 [R]."""
        firsts = self.index.sample_idx[self._chosen(np.asarray(numbers, np.int64)), 0]
        return self.index.doc_idx[firsts].astype(np.int64)

    def fingerprint(self) -> dict[str, Any]:
        text = {self.dataset.prefix.name: self.dataset.content}
        labels = {} if self.labels is None else {self.labels.prefix.name: self.labels.content}
        return {**self._identity, "text": text, "labels": labels}

    def _gather(
        self, dataset: IndexedDataset, at: Sequence[NDArray[np.int64]], rows: int, fill: int
    ) -> NDArray[Any]:
        row, column, document, offset, length = at
        wide = np.result_type(dataset.dtype, np.int32)
        out = np.full(rows * self._width, fill, wide)
        ranges = dataset.ranges(dataset.begins(document) + offset, length)
        for tokens, begin in zip(ranges, (row * self._width + column).tolist(), strict=True):
            out[begin : begin + len(tokens)] = tokens
        return out.reshape(rows, self._width)

    def columns(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Compute the spans of samples: the columns of `Span`, from row to row."""
        samples = self._chosen(np.asarray(numbers, np.int64))
        index = self.index
        first, first_offset = index.sample_idx[samples].astype(np.int64).T
        last, last_offset = index.sample_idx[samples + 1].astype(np.int64).T
        has_end = last < len(index.doc_idx)  # else there is no document after the last
        last = np.where(has_end, last, last - 1)
        count = last - first + 1
        row = np.repeat(np.arange(len(samples)), count)
        begin = np.cumsum(count) - count
        k = np.arange(len(row)) - begin[row] + first[row]
        document = index.doc_idx[k].astype(np.int64)
        offset = np.where(k == first[row], first_offset[row], 0)
        ends_here = (k == last[row]) & has_end[row]
        whole = self.dataset.sizes[document]
        stop = np.where(ends_here, last_offset[row] + self._extra, whole)
        length = stop - offset
        before = np.cumsum(length) - length
        column = before - before[begin[row]]
        length = np.minimum(length, self._width - column)
        kept = length > 0
        return tuple(part[kept] for part in (row, column, document, offset, length))

    def _chosen(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the samples of the unshuffled order, by NeoX's rules for those that do not exist.

        A blend asks for more than one pass: then the number counts modulo the pass, though the
        sample after the last of a pass is one. A sample whose end needs a document that does not
        exist gives way to another, modulo again.
        """
        shuffle_idx, sample_idx = self.index.shuffle_idx, self.index.sample_idx
        size = max(1, len(self))
        within = np.where(numbers < len(shuffle_idx), numbers, numbers % size)
        samples = shuffle_idx[within].astype(np.int64)
        endless = sample_idx[samples + 1, 0] >= len(self.index.doc_idx)
        samples[endless] = shuffle_idx[samples[endless] % size]
        return samples


class Blend:
    """Samples of several datasets, sample i by the two arrays of `order.blend_indices`."""

    endless = False

    def __init__(
        self,
        datasets: Sequence[Samples],
        dataset_index: NDArray[Any],
        dataset_sample_index: NDArray[np.int64],
        identity: dict[str, Any],
    ) -> None:
        self.datasets = datasets
        self.dataset_index, self.dataset_sample_index = dataset_index, dataset_sample_index
        self._identity = identity

    def __len__(self) -> int:
        return len(self.dataset_index)

    def read(self, numbers: NDArray[np.int64]) -> Rows:
        chosen, samples = self.dataset_index[numbers], self.dataset_sample_index[numbers]
        parts = [
            (at, self.datasets[k].read(samples[at]))
            for k in np.unique(chosen)
            for at in [np.flatnonzero(chosen == k)]
        ]
        shape = (len(chosen), parts[0][1].tokens.shape[1])
        tokens = np.empty(shape, np.result_type(*(rows.tokens for _, rows in parts)))
        masked = any(rows.counted is not None for _, rows in parts)
        counted = np.ones(shape, bool) if masked else None
        for at, rows in parts:
            tokens[at] = rows.tokens
            if counted is not None and rows.counted is not None:
                counted[at] = rows.counted
        return Rows(tokens, counted)

    def documents(self, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
        chosen, samples = self.dataset_index[numbers], self.dataset_sample_index[numbers]
        each = [self.datasets[k].documents(samples[[i]])[0] for i, k in enumerate(chosen)]
        return np.stack(each)

    def spans(self, number: int) -> list[tuple[IndexedDataset, Span]]:
        dataset = self.datasets[self.dataset_index[number]]
        return dataset.spans(int(self.dataset_sample_index[number]))

    def fingerprint(self) -> dict[str, Any]:
        children = [dataset.fingerprint() for dataset in self.datasets]
        return {**self._identity, "datasets": {str(k): child for k, child in enumerate(children)}}


def locate(samples: Samples, number: int, column: int) -> str:
    """Say where token `column` of a sample is: file, document, offset."""
    for dataset, span in samples.spans(number):
        if span.column <= column < span.column + span.length:
            return place(dataset, span.document, span.offset + column - span.column)
    return f"sample {number}, token {column}"


def place(dataset: IndexedDataset, document: int, offset: int) -> str:
    """Say where a token of a document is: file, document, offset."""
    begin = int(dataset.begins(np.array([document]))[0])
    byte = (begin + offset) * dataset.dtype.itemsize
    return f"{dataset.bin_path}: token {offset} of document {document}, byte {byte},"


def _covering(at: Sequence[NDArray[np.int64]], row: int, column: int) -> tuple[int, int]:
    """Find the document and the offset in it of token `column` of a row."""
    spans = np.stack(at, axis=1)
    begins = np.flatnonzero((spans[:, 0] == row) & (spans[:, 1] <= column))[-1]
    span = Span(*map(int, spans[begins]))
    return span.document, span.offset + int(column) - span.column
