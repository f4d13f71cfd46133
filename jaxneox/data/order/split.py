"""The documents that train, validate and test."""

import functools
import operator
import re
from collections.abc import Iterable

import numpy as np

from jaxneox.errors import UserError


def plain_sum(values: Iterable[float]) -> float:
    """Add from left to right, rounding each time, as `sum` did before Python 3.12 made it exact.

    NeoX's bounds follow from it: 0.7 + 0.2 + 0.1 is just below 1, and 5 documents split 3, 1, 1.
    """
    return functools.reduce(operator.add, values, 0.0)


def split_documents(split: str, size: int) -> tuple[range, range, range]:
    """Split documents for train, valid and test by NeoX's rounding of `split: "969, 30, 1"`.

    Each share is rounded alone; the excess of the sum is then taken from every bound but the
    first (gpt-neox `data_utils.py`, `get_train_valid_test_split_`).
    """
    separator = "," if "," in split else "/"
    try:
        shares = _checked(split, [float(share) for share in split.split(separator)])
    except ValueError:
        raise _wrong(split) from None
    lengths = [round(share / plain_sum(shares) * size) for share in shares]
    excess = sum(lengths) - size
    ends = [max(0, sum(lengths[: k + 1]) - excess) for k in range(3)]
    return range(ends[0]), range(ends[0], ends[1]), range(ends[1], ends[2])


def split_sequences(split: str, size: int) -> tuple[range, range, range]:
    """Split sequences by Megatron-core's rounding, of each bound alone.

    Sources: Megatron-LM `blended_megatron_dataset_config.py`, `parse_and_normalize_split` and
    `convert_split_vector_to_split_matrix`, and the builder's `_build_megatron_dataset_splits`.
    """
    shares = np.array(_checked(split, [float(share) for share in re.findall(r"[.0-9]+", split)]))
    bounds = [0.0]
    for share in (shares / np.sum(shares)).tolist():
        bounds.append(bounds[-1] + share)
    first, second, third, fourth = (round(bound * float(size)) for bound in bounds)
    return range(first, second), range(second, third), range(third, fourth)


def _checked(split: str, shares: list[float]) -> list[float]:
    shares = shares[:3]  # NeoX never looks at more
    if not shares or min(shares) < 0 or not 0 < plain_sum(shares) < np.inf:
        raise _wrong(split)
    return shares + [0.0] * (3 - len(shares))


def _wrong(split: str) -> UserError:
    return UserError(
        f"split: {split!r} is not one to three numbers of documents to train, valid and test "
        'in proportion, such as "969, 30, 1"'
    )
