"""Documents joined end to end, shuffled and cut into samples: `packed` in NeoX and in Megatron.

One `np.random.RandomState(seed)` per dataset and split shuffles first documents, then samples.
Sample j of the unshuffled stream begins at token j * S and has S + `extra` tokens: with one extra
token neighbours share it, and inputs and labels both have S.

    doc_idx      [epochs * documents]  the shuffled documents
    sample_idx   [N + 1, 2]            index into doc_idx and offset in that document of each sample
    shuffle_idx  [N]                   the shuffled samples
"""
# N samples, S tokens of a sample, E epochs

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 16  # documents at a time: little memory beside the index
LAST_EPOCH_APART = 0.80  # of an epoch's samples, Megatron's threshold


class SampleIndex(NamedTuple):
    """The three arrays of an order; see above and `whole_documents`."""

    doc_idx: NDArray[Any]
    sample_idx: NDArray[Any]
    shuffle_idx: NDArray[Any]


def epochs_needed(num_samples: int, tokens: int, seq_length: int, extra: int = 1) -> int:
    """Return the fewest epochs of `tokens` that hold `num_samples`."""
    return max(1, -(-(num_samples * seq_length + extra) // tokens))


def neox_packed(
    sizes: NDArray[np.int32], documents: range, *, epochs: int, seq_length: int, seed: int
) -> SampleIndex:
    """Shuffle all epochs together; there is no separate last one.

    Source: gpt-neox `megatron/data/gpt2_dataset.py`, `_build_index_mappings`.
    """
    rng = np.random.RandomState(seed)
    doc_idx = _shuffled_documents(documents, epochs, rng)
    stream = epochs * _count(sizes, documents)
    size = (stream - 1) // seq_length
    narrow = 2 * ((stream - 1) / seq_length + 1) < np.iinfo(np.int32).max
    sample_idx = _cut(sizes, doc_idx, size, seq_length, 1, np.int32 if narrow else np.int64)
    return SampleIndex(doc_idx, sample_idx, _shuffled(0, size, size, rng))


def megatron_packed(
    sizes: NDArray[np.int32],
    documents: range,
    *,
    num_samples: int | None,
    seq_length: int,
    seed: int,
    extra: int = 1,
    keep_partial: bool = False,
) -> SampleIndex:
    """Shuffle the last epoch apart from the others if few samples of it are needed.

    Source: Megatron-LM `gpt_dataset.py`, `_build_document_sample_shuffle_indices`.

    Args:
        sizes: tokens of each sequence.
        documents: the sequences that are used.
        num_samples: how many; None is one epoch.
        seq_length: S.
        seed: of the shuffles.
        extra: 1, or 0 for `add_extra_token_to_sequence` off: no token is shared.
        keep_partial: whether a last sample that is shorter than the others counts.
    """
    rng = np.random.RandomState(seed)
    epoch = _count(sizes, documents)
    epochs = epochs_needed(num_samples, epoch, seq_length, extra) if num_samples else 1
    before_last = ((epochs - 1) * epoch - extra) // seq_length
    apart = epochs > 1 and (num_samples or 0) - before_last < int(
        LAST_EPOCH_APART * ((epoch - extra) // seq_length)
    )
    if apart:
        parts = [_shuffled_documents(documents, count, rng) for count in (epochs - 1, 1)]
        doc_idx = np.concatenate(parts)
    else:
        doc_idx = _shuffled_documents(documents, epochs, rng)
    whole = epochs * epoch - extra
    # As the helper counts: in float32, which above 2**24 tokens may be one sample off.
    partial = int(np.ceil(np.float32(whole) / np.float32(seq_length)))
    size = partial if keep_partial else whole // seq_length
    narrow = max(len(doc_idx), int(sizes.max(initial=0))) <= np.iinfo(np.int32).max
    sample_idx = _cut(sizes, doc_idx, size, seq_length, extra, np.int32 if narrow else np.int64)
    return SampleIndex(doc_idx, sample_idx, _shuffled(0, before_last if apart else size, size, rng))


def _count(sizes: NDArray[np.int32], documents: range) -> int:
    return int(np.sum(sizes[documents.start : documents.stop], dtype=np.int64))


def _shuffled_documents(
    documents: range, epochs: int, rng: np.random.RandomState
) -> NDArray[np.int32]:
    doc_idx = np.empty((epochs, len(documents)), np.int32)
    doc_idx[:] = np.arange(documents.start, documents.stop, dtype=np.int32)
    joined = doc_idx.reshape(-1)
    rng.shuffle(joined)
    return joined


def _shuffled(start: int, middle: int, end: int, rng: np.random.RandomState) -> NDArray[Any]:
    """Shuffle start … end - 1, those before `middle` apart from those from it on."""
    wide = end >= np.iinfo(np.uint32).max - 1
    numbers = np.arange(start, end, dtype=np.int64 if wide else np.uint32)
    rng.shuffle(numbers[:middle])
    if middle < end:
        rng.shuffle(numbers[middle:])
    return numbers


def _cut(
    sizes: NDArray[np.int32],
    doc_idx: NDArray[np.int32],
    size: int,
    seq_length: int,
    extra: int,
    dtype: type[np.signedinteger[Any]],
) -> NDArray[Any]:
    """Find where each of `size` samples begins: sample_idx.

    The begin of sample j is in the first document that reaches token j * S + extra of the stream:
    with an extra token a begin that falls on a document's end belongs to the next one that has
    tokens, without one it stays at that end. The first begins in the first document even where
    that is empty. Begins past the end of the stream are `extra` before it.
    """
    sample_idx = np.empty((size + 1, 2), dtype)
    sample_idx[0] = 0
    done, base = 1, 0  # samples written, tokens before the chunk of documents
    for at in range(0, len(doc_idx), CHUNK):
        lengths = sizes[doc_idx[at : at + CHUNK]]
        ends = np.cumsum(lengths, dtype=np.int64)
        reached = (ends + (base - extra)) // seq_length + 1  # samples begun by each end
        count = np.diff(np.append(done, np.clip(reached, done, size + 1)))
        documents = np.repeat(np.arange(len(ends)), count)
        begins = np.arange(done, done + len(documents)) * seq_length - base
        rows = sample_idx[done : done + len(documents)]
        rows[:, 0] = documents + at
        rows[:, 1] = begins - (ends - lengths)[documents]
        done, base = done + len(documents), base + int(ends[-1])
    sample_idx[done:] = len(doc_idx) - 1, int(sizes[doc_idx[-1]]) - extra
    return sample_idx
