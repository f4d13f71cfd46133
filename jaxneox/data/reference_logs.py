"""Log-probabilities that a reference model gave to a dataset, computed before training.

`<tokens>_<name>` has a document of seq-length float32 numbers for each document of `<tokens>`:
number t is the log-probability of token t + 1. NeoX fills up its last batch with the first
documents again, which lie behind the last.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.data import reference_record
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.samples import IndexedSamples
from jaxneox.data.storage import is_url
from jaxneox.errors import UserError

MAKE, REPLACE = "`jaxneox precompute`", "`jaxneox precompute --again`"


def open_reference(
    texts: IndexedDataset, name: str, seq_length: int, *decide: NDArray[Any]
) -> IndexedDataset:
    """Open the log-probabilities of a dataset.

    Args:
        texts: the tokens.
        name: the reference model's, `precompute_model_name`.
        seq_length: the numbers of each document.
        decide: arrays that decide the rows besides, see `identity_of_rows`.

    Raises:
        UserError: they are missing, or not made for these texts and this length.
    """
    prefix = f"{texts.prefix}_{name}"  # a name with a slash, as one of the hub, is a folder's
    if not is_url(prefix) and not Path(f"{prefix}.idx").is_file():
        raise UserError(
            f"{prefix}.idx: no such file; precompute_model_name: {name} reads the reference "
            f"model's log-probabilities there: make them with {MAKE}, or leave the key out, which "
            "computes them while training"
        )
    found = IndexedDataset(prefix)
    if found.dtype != np.dtype("<f4"):
        raise UserError(
            f"{found.idx_path}: holds {found.dtype} numbers, expected log-probabilities as float32"
        )
    if len(found) < len(texts) or not _repeats(found, len(texts)):
        raise UserError(
            f"{found.idx_path}: {len(found)} documents, but {texts.idx_path} has {len(texts)}: "
            f"replace it with {REPLACE}"
        )
    wrong = np.flatnonzero(found.sizes != seq_length)
    if len(wrong):
        raise UserError(
            f"{found.idx_path}: document {wrong[0]} has {found.sizes[wrong[0]]} numbers, expected "
            f"seq-length {seq_length} in each: replace it with {REPLACE}"
        )
    record = reference_record.read(found.prefix)
    rows = reference_record.identity_of_rows(texts, seq_length, *decide)
    if record is not None and record[reference_record.ROWS] != rows:
        raise UserError(
            f"{found.idx_path}: was computed of other rows than those that {texts.idx_path} and "
            f"this configuration have now: replace it with {REPLACE}"
        )
    return found


def logs(samples: IndexedSamples, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """Read the log-probabilities of samples' labels, float32 [R, S].

    Raises:
        UserError: one is not finite; says where.
    """
    values = samples.read(numbers).tokens[:, :-1].astype(np.float32)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        for dataset, span in samples.spans(int(numbers[row])):
            if span.column <= column < span.column + span.length:
                raise UserError(
                    f"{dataset.bin_path}: number {span.offset + column - span.column} of document "
                    f"{span.document} is {values[row, column]}, expected a finite log-probability: "
                    f"replace it with {REPLACE}"
                )
    return values


def _repeats(dataset: IndexedDataset, documents: int) -> bool:
    """Tell whether the documents after the first so many are nearly these once more, in order."""
    more = np.arange(documents, len(dataset))
    again = more % documents
    if not np.array_equal(dataset.sizes[more], dataset.sizes[again]):
        return False
    sizes = dataset.sizes[more]
    ranges = (dataset.ranges(dataset.begins(which), sizes) for which in (more, again))
    # Another batch may round otherwise.
    return all(np.allclose(one, other, 0.05, 0.1) for one, other in zip(*ranges, strict=True))
