"""Label datasets: the tokens again, with -100 where there is no loss."""

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.samples import MASKED
from jaxneox.errors import UserError

DOCUMENTS = 4096  # at a time


def check_in_step(dataset: IndexedDataset, labels: IndexedDataset) -> None:
    """Check that text and labels are sequences of the same sizes.

    Raises:
        UserError: they are not.
    """
    if len(dataset) != len(labels):
        raise UserError(
            f"{labels.idx_path}: {len(labels)} sequences, but {dataset.idx_path} has "
            f"{len(dataset)}; labels are made together with their text"
        )
    different = np.flatnonzero(dataset.sizes != labels.sizes)
    if len(different):
        i = int(different[0])
        raise UserError(
            f"{labels.idx_path}: {labels.sizes[i]} tokens in sequence {i}, but "
            f"{dataset.idx_path} has {dataset.sizes[i]}; labels are made together with their text"
        )


def with_loss(labels: IndexedDataset, prefix: int) -> NDArray[np.bool_]:
    """Mark the documents that have a label other than -100 among their first `prefix`."""
    return prompt_lengths(labels) < np.minimum(labels.sizes, prefix)


def prompt_lengths(labels: IndexedDataset, after: int = 0) -> NDArray[np.int64]:
    """Count the labels of each document before the first that is not -100; all if there is none.

    Args:
        labels: the documents.
        after: so many first labels of each are taken as -100.
    """
    before = labels.sizes.astype(np.int64)
    for first in range(0, len(labels), DOCUMENTS):
        part = slice(first, first + DOCUMENTS)
        begins = labels.begins(part)
        total = before[part].sum(keepdims=True)
        values = np.concatenate(list(labels.ranges(begins[:1], total)))
        counted = np.append(np.flatnonzero(values != MASKED), len(values))
        at = begins - begins[0]
        begin = at + np.minimum(before[part], after)
        before[part] = np.minimum(before[part], counted[np.searchsorted(counted, begin)] - at)
    return before
