"""GPT-NeoX's packed sample order, vectorised: which tokens the i-th sample of a dataset has.

One `np.random.RandomState(seed)` per dataset and split shuffles first the documents of all epochs
together, then the samples (gpt-neox `megatron/data/gpt2_dataset.py`, `_build_index_mappings`).
Sample j of the unshuffled stream begins at token j * S; neighbours share one token, so that each
has S + 1.
"""

import functools
import operator
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.indexed import IndexedDataset
from jaxneox.errors import UserError


class Samples(Protocol):
    """A finite sequence of samples; the loader asks for no more than this."""

    def __len__(self) -> int:
        """The samples of one pass."""
        ...

    def sample(self, i: int) -> NDArray[np.int64]:
        """Tokens [S + 1] of sample i."""
        ...

    def locate(self, i: int, column: int) -> str:
        """In words, where token `column` of sample i lies: file, document, offset."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """All that decides what `sample` returns, as JSON."""
        ...


def plain_sum(values: Iterable[float]) -> float:
    """From left to right, rounding each time, as `sum` did before Python 3.12 made it exact.

    NeoX's bounds follow from it: 0.7 + 0.2 + 0.1 is just below 1, and 5 documents split 3, 1, 1.
    """
    return functools.reduce(operator.add, values, 0.0)


def split_documents(split: str, size: int) -> tuple[range, range, range]:
    """The documents of train, valid and test, by NeoX's rounding of `split: "969, 30, 1"`.

    Each share is rounded alone; the excess of the sum is then taken from every bound but the
    first (gpt-neox `data_utils.py`, `get_train_valid_test_split_`).
    """
    separator = "," if "," in split else "/"
    try:
        shares = [float(share) for share in split.split(separator)]
    except ValueError:
        shares = []
    if not 1 <= len(shares) <= 3 or min(shares) < 0 or not 0 < plain_sum(shares) < np.inf:
        raise UserError(
            f"split: {split!r} is not one to three numbers of documents to train, valid and test "
            'in proportion, such as "969, 30, 1"'
        )
    shares += [0.0] * (3 - len(shares))
    lengths = [round(share / plain_sum(shares) * size) for share in shares]
    excess = sum(lengths) - size
    ends = [max(0, sum(lengths[: k + 1]) - excess) for k in range(3)]
    return range(ends[0]), range(ends[0], ends[1]), range(ends[1], ends[2])


def epochs_needed(num_samples: int, tokens: int, seq_length: int) -> int:
    """The fewest epochs of `tokens` that hold `num_samples`: (epochs * tokens - 1) // S of them."""
    return max(1, -(-(num_samples * seq_length + 1) // tokens))


class PackedSamples:
    """Documents of a dataset joined end to end, shuffled and cut, `pack_impl: packed`.

    The order depends on the number of epochs, not on the number of samples asked for: there is no
    separate last epoch.

    Attributes:
        doc_idx: int32 [epochs * documents], the shuffled documents.
        sample_idx: [N + 1, 2], index into doc_idx and offset in that document of each sample.
        shuffle_idx: uint32 [N], the shuffled samples.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        documents: range,
        *,
        epochs: int,
        seq_length: int,
        seed: int,
    ) -> None:
        self.dataset = dataset
        self.documents = documents
        self.epochs = epochs
        self.seq_length = seq_length
        self.seed = seed
        rng = np.random.RandomState(seed)
        self.doc_idx = np.tile(np.arange(documents.start, documents.stop, dtype=np.int32), epochs)
        rng.shuffle(self.doc_idx)
        self.sample_idx = _sample_idx(dataset.sizes, self.doc_idx, seq_length)
        size = len(self.sample_idx) - 1
        wide = size >= np.iinfo(np.uint32).max - 1
        self.shuffle_idx = np.arange(size, dtype=np.int64 if wide else np.uint32)
        rng.shuffle(self.shuffle_idx)

    def __len__(self) -> int:
        """N - 1: NeoX's sampler never reaches the last of its N samples."""
        return max(0, len(self.shuffle_idx) - 1)

    def sample(self, i: int) -> NDArray[np.int64]:
        """Tokens int64 [S + 1] of sample i; past the end NeoX counts modulo its length again."""
        first, last = self._bounds(i)
        parts = []
        for k in range(int(first[0]), int(last[0]) + 1):
            document = int(self.doc_idx[k])
            begin = int(first[1]) if k == first[0] else 0
            end = int(last[1]) + 1 if k == last[0] else int(self.dataset.sizes[document])
            parts.append(self.dataset.get(document, begin, end - begin))
        return np.concatenate(parts, dtype=np.int64)

    def locate(self, i: int, column: int) -> str:
        """The file, document and offset of token `column` of sample i."""
        (k, offset), _ = (map(int, bound) for bound in self._bounds(i))
        offset += column
        while offset >= (size := int(self.dataset.sizes[self.doc_idx[k]])):
            k, offset = k + 1, offset - size
        return f"{self.dataset.bin_path}: document {self.doc_idx[k]}, token {offset}"

    def fingerprint(self) -> dict[str, Any]:
        return {
            "order": "neox packed",
            "file": self.dataset.prefix.name,
            "tokens": int(self.dataset.starts[-1]),
            "content": self.dataset.content_hash(),
            "documents": [self.documents.start, self.documents.stop],
            "epochs": self.epochs,
            "seq_length": self.seq_length,
            "seed": self.seed,
        }

    def _bounds(self, i: int) -> tuple[NDArray[Any], NDArray[Any]]:
        # A blend asks for more than one pass; i == N - 1 is a sample, though not of the pass.
        j = int(self.shuffle_idx[i if i < len(self.shuffle_idx) else i % max(1, len(self))])
        return self.sample_idx[j], self.sample_idx[j + 1]


def pack(
    dataset: IndexedDataset, documents: range, *, num_samples: int, seq_length: int, seed: int
) -> PackedSamples:
    """At least `num_samples` samples from as many epochs of the documents as that needs."""
    if dataset.dtype.kind == "f":
        raise UserError(f"{dataset.idx_path}: holds {dataset.dtype} numbers, expected tokens")
    tokens = int(dataset.starts[documents.stop] - dataset.starts[documents.start])
    if not tokens:
        raise UserError(
            f"{dataset.bin_path}: documents {documents.start} to {documents.stop} have no tokens"
        )
    epochs = epochs_needed(num_samples, tokens, seq_length)
    return PackedSamples(dataset, documents, epochs=epochs, seq_length=seq_length, seed=seed)


def _sample_idx(
    sizes: NDArray[np.int32], doc_idx: NDArray[np.int32], seq_length: int
) -> NDArray[np.signedinteger[Any]]:
    """Where each sample begins: [N + 1, 2] of index into doc_idx and offset in the document.

    A begin that falls on a document's end belongs to the next document that has tokens.
    """
    ends = np.cumsum(sizes[doc_idx], dtype=np.int64)
    stream = int(ends[-1])
    begins = np.arange((stream - 1) // seq_length + 1, dtype=np.int64) * seq_length
    documents = np.searchsorted(ends, begins, side="right")
    offsets = begins - (ends[documents] - sizes[doc_idx[documents]])
    narrow = 2 * ((stream - 1) / seq_length + 1) < np.iinfo(np.int32).max
    sample_idx = np.stack([documents, offsets], axis=1)
    sample_idx[0] = 0
    return sample_idx.astype(np.int32 if narrow else np.int64)
