"""GPT-NeoX's weighted blend of several datasets.

At every step the dataset furthest behind its share gives its next sample (gpt-neox
`megatron/data/helpers.cpp`, `build_blending_indices`, and `blendable_dataset.py`).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.samples import Samples, plain_sum
from jaxneox.errors import UserError

MAX_DATASETS = 254  # dataset_index is a uint8, and NeoX keeps one value free


def normalised(weights: Sequence[float], key: str) -> list[float]:
    """Weights that sum to one, or a UserError that names the YAML key."""
    total = plain_sum(weights)
    if not 0 < total < math.inf or min(weights) < 0:
        raise UserError(
            f"{key}: {list(weights)}, expected numbers of at least 0, not all of them 0"
        )
    return [weight / total for weight in weights]


def weights_by_documents(documents: Sequence[int], alpha: float) -> list[float]:
    """`weight-by-num-documents`: p(1 - n) normalised, with n a share and p its power alpha.

    The second factor gives small corpora more (gpt-neox `data_utils.py`, `weights_by_num_docs`).
    """
    if len(documents) == 1:
        return [1.0]
    shares = [count / sum(documents) for count in documents]
    powers = [share**alpha for share in shares]
    total = plain_sum(powers)
    weights = [power / total * (1 - share) for power, share in zip(powers, shares, strict=True)]
    return normalised(weights, "weight-by-num-documents")


def samples_of_each(weights: Sequence[float], num_samples: int) -> list[int]:
    """How many samples each dataset is built for: its share and half a percent to spare."""
    return [math.ceil(num_samples * weight * 1.005) for weight in weights]


def blend_indices(
    weights: Sequence[float], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Which dataset gives sample i of a blend, and which of its own samples: two [size].

    The dataset with the largest `weight * max(i, 1) - used`, in float64; the first of equals.
    """
    dataset_index = np.zeros(size, np.uint8)
    sample_index = np.arange(size, dtype=np.int64)
    if len(weights) == 1:
        return dataset_index, sample_index
    shares = [float(weight) for weight in weights]
    used = [0] * len(shares)
    datasets = range(len(shares))
    for i in range(size):
        due = [shares[k] * max(i, 1) - used[k] for k in datasets]
        chosen = due.index(max(due))
        dataset_index[i] = chosen
        sample_index[i] = used[chosen]
        used[chosen] += 1
    return dataset_index, sample_index


class Blend:
    """Samples of several datasets in the proportion of their weights (normalised).

    Its length is the sum of the datasets' own lengths, whatever the weights: a dataset may be
    asked for more than it has and then begins again.
    """

    def __init__(self, datasets: Sequence[Samples], weights: Sequence[float]) -> None:
        if len(datasets) > MAX_DATASETS:
            raise UserError(f"{len(datasets)} datasets in a blend, expected {MAX_DATASETS} or less")
        self.datasets = datasets
        # NeoX divides by the sum once more, this time numpy's, which may round differently.
        self.weights = (np.asarray(weights) / np.sum(weights)).tolist()
        size = sum(len(dataset) for dataset in datasets)
        self.dataset_index, self.dataset_sample_index = blend_indices(self.weights, size)

    def __len__(self) -> int:
        return len(self.dataset_index)

    def sample(self, i: int) -> NDArray[np.int64]:
        """Tokens int64 [S + 1] of sample i."""
        dataset, sample = self._choose(i)
        return dataset.sample(sample)

    def locate(self, i: int, column: int) -> str:
        dataset, sample = self._choose(i)
        return dataset.locate(sample, column)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "order": "neox blend",
            "weights": self.weights,
            "datasets": [dataset.fingerprint() for dataset in self.datasets],
        }

    def _choose(self, i: int) -> tuple[Samples, int]:
        return self.datasets[self.dataset_index[i]], int(self.dataset_sample_index[i])
