"""All tokens of a dataset seen once: how large they are, and what the documents end with."""

import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.console.progress import LARGE, progress
from jaxneox.data import remote
from jaxneox.data.indexed import IndexedDataset

CHUNK = 1 << 22  # tokens read at once
EARLY = 1 << 20  # tokens from which the last one of most documents is guessed
IGNORED = -100  # the label of a token that is not learned
DOCUMENT, LABEL = "_document", "_label_document"


@dataclass(frozen=True)
class Count:
    """A number of tokens or documents, and where the first one is."""

    number: int = 0
    first: int | None = None

    def plus(self, flags: NDArray[np.bool_], at: int) -> "Count":
        """Add the flags that are True; element 0 is number `at`."""
        number = int(np.count_nonzero(flags))
        first = at + int(np.argmax(flags)) if number else None
        return Count(self.number + number, first if self.first is None else self.first)


@dataclass(frozen=True)
class Tokens:
    """Says how large a dataset's tokens are, and which documents lack their end.

    Attributes:
        least: of all tokens; 0 if there are none.
        greatest: of all tokens; -1 if there are none.
        eods: how many are the end-of-document token.
        unended: the documents with tokens whose last one is another.
        outside: those that are negative or not below the size of the vocabulary.
    """

    least: int
    greatest: int
    eods: int
    unended: Count
    outside: Count


def document_begins(dataset: IndexedDataset) -> NDArray[np.int64]:
    """Find where in all tokens each document begins, and their number: int64 [documents + 1]."""
    return np.append(dataset.begins(slice(None)), dataset.total)[dataset.doc_idx]


def chunks(dataset: IndexedDataset, label: str) -> Iterator[tuple[int, NDArray[np.number[Any]]]]:
    """Yield all tokens in order, some millions at a time, and the number of the first of them."""
    with progress(f"{label} {dataset.prefix.name}", dataset.bin_size, at_least=LARGE) as advance:
        for at in range(0, dataset.total, CHUNK):
            (tokens,) = dataset.ranges([at], [min(CHUNK, dataset.total - at)])
            yield at, tokens
            advance(tokens.nbytes)


def survey(
    dataset: IndexedDataset,
    begins: NDArray[np.int64],
    *,
    eod: int | None,
    vocab_size: int | None = None,
) -> Tokens:
    """Look at all tokens once; `begins` comes from `document_begins`."""
    limit = np.iinfo(np.int64).max if vocab_size is None else vocab_size
    masked = is_label(dataset)
    documents = np.flatnonzero(begins[1:] > begins[:-1])
    lasts = begins[1:][documents] - 1
    least, greatest, eods = [0], [-1], 0
    unended = outside = Count()
    seen = 0
    for at, tokens in chunks(dataset, "reading"):
        least.append(int(tokens.min()))
        greatest.append(int(tokens.max()))
        if least[-1] < 0 or greatest[-1] >= limit:
            strange = (tokens < 0) | (tokens >= limit)
            outside = outside.plus(strange & (tokens != IGNORED) if masked else strange, at)
        if eod is not None:
            eods += int(np.count_nonzero(tokens == eod))
            ended = int(np.searchsorted(lasts, at + len(tokens)))
            unended = unended.plus(tokens[lasts[seen:ended] - at] != eod, seen)
            seen = ended
    first = None if unended.first is None else int(documents[unended.first])
    least, greatest = least[1:] or least, greatest[1:] or greatest
    return Tokens(min(least), max(greatest), eods, Count(unended.number, first), outside)


def likely_eod(dataset: IndexedDataset, begins: NDArray[np.int64]) -> int | None:
    """Guess the token that most documents end with, by the dataset's first tokens."""
    (tokens,) = dataset.ranges([0], [min(EARLY, dataset.total)])
    lasts = begins[1:][begins[1:] > begins[:-1]] - 1
    values, counts = np.unique(tokens[lasts[lasts < len(tokens)]], return_counts=True)
    if not len(values) or 2 * counts.max() < counts.sum():
        return None
    return int(values[np.argmax(counts)])


def is_label(dataset: IndexedDataset) -> bool:
    return dataset.prefix.name.endswith(LABEL)


def label_dataset(dataset: IndexedDataset) -> IndexedDataset | None:
    """Find the labels beside a text: X_label_document of X_text_document, or of X_document."""
    name = dataset.prefix.name
    if is_label(dataset) or not name.endswith(DOCUMENT):
        return None
    document = name.removesuffix(DOCUMENT)
    for stem in dict.fromkeys((document.removesuffix("_text"), document)):
        prefix = dataset.prefix.with_name(stem + LABEL)
        index = prefix.with_name(prefix.name + ".idx")
        if index.is_file() if isinstance(index, pathlib.Path) else remote.exists(str(index)):
            return IndexedDataset(prefix)
    return None
