"""Whole documents in a sample: NeoX's `pack_until_overflow` and `unpacked`.

Both are read with the index of `packed`, whose arrays are all int64 here. NeoX looks at every
document of the file, whatever part of it a split was given (gpt-neox
`megatron/data/gpt2_dataset.py`, `_build_index_mappings`).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.order.packed import SampleIndex


def pack_until_overflow(
    sizes: NDArray[np.int32],
    useful: NDArray[np.bool_],
    *,
    num_samples: int,
    seq_length: int,
    seed: int,
) -> SampleIndex:
    """Shuffled documents fill a sample until the next one does not fit into S + 1 tokens.

    Each pass over the documents shuffles the order of the one before. Documents that are not
    `useful` [documents] are passed over; at least one must be. (Where the last one of an order
    is not, NeoX fails; here the next pass begins.) The last sample has its first document only.
    """
    rng = np.random.RandomState(seed)
    shuffle_idx = np.arange(num_samples)
    rng.shuffle(shuffle_idx)
    order = np.arange(len(sizes))
    rng.shuffle(order)
    documents: list[NDArray[np.int64]] = []  # of finished samples
    begins: list[NDArray[np.int64]] = []
    unfinished = np.zeros(0, np.int64)
    finished = closed = 0  # documents and samples
    while closed + 1 < num_samples or not len(unfinished):
        stream = np.concatenate([unfinished, order[useful[order]]])
        firsts = _firsts(sizes[stream], seq_length + 1)
        documents.append(stream[: firsts[-1]])
        begins.append(firsts[:-1] + finished)
        unfinished = stream[firsts[-1] :]
        finished, closed = finished + int(firsts[-1]), closed + len(firsts) - 1
        rng.shuffle(order)
    starts = np.concatenate([*begins, [finished]])[:num_samples]
    doc_idx = np.concatenate([*documents, unfinished])[: starts[-1] + 1]
    return SampleIndex(doc_idx, _at_begins(np.append(starts, len(doc_idx))), shuffle_idx)


def unpacked(useful: NDArray[np.bool_], *, num_samples: int, seed: int) -> SampleIndex:
    """One document a sample, the `useful` ones in the order of the file, again and again."""
    rng = np.random.RandomState(seed)
    shuffle_idx = np.arange(num_samples)
    rng.shuffle(shuffle_idx)
    doc_idx = np.resize(np.flatnonzero(useful), num_samples + 1)
    return SampleIndex(doc_idx, _at_begins(np.arange(num_samples + 1)), shuffle_idx)


def _firsts(lengths: NDArray[np.int32], width: int) -> NDArray[np.int64]:
    """Find the documents that begin a sample when each takes as many as fit into `width` tokens.

    A sample of no tokens yet is begun anew by the next document.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    following = np.arange(1, len(lengths) + 1)
    fits = np.searchsorted(ends, ends - lengths + width, side="right")
    following = np.where(lengths == 0, following, np.maximum(following, fits))
    firsts = []
    at, go = 0, following.item
    while at < len(lengths):
        firsts.append(at)
        at = go(at)
    return np.array(firsts, np.int64)


def _at_begins(starts: NDArray[Any]) -> NDArray[np.int64]:
    """Make the sample_idx of samples that begin where their first document begins."""
    return np.stack([starts, np.zeros_like(starts)], axis=1).astype(np.int64)
