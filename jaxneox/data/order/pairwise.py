"""Pairs of documents in a sample: the `unpacked` and `pack_until_overflow` of NeoX's pairs.

A pair is document d of two files. Both sides are read by one index, whose arrays are those of
`packed` (gpt-neox `megatron/data/pairwise_dataset.py`, `_build_index_mappings`).
"""

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.order.packed import SampleIndex
from jaxneox.data.order.whole_documents import pack_until_overflow, unpacked


def unpacked_pairs(useful: NDArray[np.bool_], *, num_samples: int, seed: int) -> SampleIndex:
    """One pair a sample, the `useful` ones in the order of the file, again and again.

    They are numbered modulo all documents before they are shuffled, so that the first of them are
    repeated and the rest of doc_idx is never read, as in NeoX.
    """
    rng = np.random.RandomState(seed)
    shuffle_idx = np.arange(num_samples) % len(useful)
    rng.shuffle(shuffle_idx)
    return unpacked(useful, num_samples=num_samples, seed=seed)._replace(shuffle_idx=shuffle_idx)


def overflow_pairs(
    chosen: NDArray[np.int32],
    rejected: NDArray[np.int32],
    useful: NDArray[np.bool_],
    *,
    num_samples: int,
    seq_length: int,
    seed: int,
) -> SampleIndex:
    """Shuffled pairs fill a sample as long as the longer side of the next one fits."""
    longer = np.maximum(chosen, rejected)
    return pack_until_overflow(
        longer, useful, num_samples=num_samples, seq_length=seq_length, seed=seed
    )
