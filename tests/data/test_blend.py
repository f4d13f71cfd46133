"""Blends: NeoX's choices one by one, its weights, and its repeats beyond a dataset's end."""

import pathlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jaxneox.data.blend import (
    Blend,
    blend_indices,
    normalised,
    samples_of_each,
    weights_by_documents,
)
from jaxneox.errors import UserError


class Counting:
    """A dataset whose sample i is [k, i]."""

    def __init__(self, k: int, size: int) -> None:
        self.k, self.size = k, size

    def __len__(self) -> int:
        return self.size

    def sample(self, i: int) -> NDArray[np.int64]:
        return np.array([self.k, i])

    def locate(self, i: int, column: int) -> str:
        return f"{self.k}: {i}, {column}"

    def fingerprint(self) -> dict[str, Any]:
        return {"k": self.k, "size": self.size}


@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.2, 0.5, 0.3), (1.0,), (0.0, 1.0)])
def test_each_gets_its_share_at_every_step(weights: tuple[float, ...]) -> None:
    dataset_index, sample_index = blend_indices(weights, 200)
    assert [dataset_index.dtype.name, sample_index.dtype.name] == ["uint8", "int64"]
    for k, weight in enumerate(weights):
        mine = dataset_index == k
        np.testing.assert_array_equal(sample_index[mine], np.arange(mine.sum()))
        assert np.all(np.abs(np.cumsum(mine) - weight * np.arange(1, 201)) <= 1 + 1e-9)


def test_order_by_hand() -> None:
    # i = 0 counts as 1; equals go to the first.
    assert blend_indices((0.5, 0.5), 5)[0].tolist() == [0, 1, 0, 1, 0]
    assert blend_indices((0.25, 0.75), 6)[0].tolist() == [1, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("name", ["blend", "blend_surplus", "blend_by_num_docs"])
@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_indices_are_neox(shared: pathlib.Path, name: str, part: str) -> None:
    path = shared / "golden" / "data" / "neox" / f"batches_{name}_dp1_rank0.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not among the golden cases here")
    weights = {"train": [0.7, 0.3], "valid": [0.5, 0.5], "test": [2.0, 1.0]}[part]
    if name == "blend_by_num_docs":
        weights = weights_by_documents([245, 287], 0.3)
    with np.load(path) as golden:
        sizes = [int(golden[f"{part}_{k}_len"]) for k in range(2)]
        blend = Blend(
            [Counting(k, size) for k, size in enumerate(sizes)], normalised(weights, "weights")
        )
        for found, key in (
            (blend.dataset_index, "index"),
            (blend.dataset_sample_index, "sample_index"),
        ):
            expected = golden[f"{part}_dataset_{key}"]
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_length_is_the_sum_whatever_the_weights() -> None:
    blend = Blend([Counting(0, 6), Counting(1, 2)], [1, 3])
    assert len(blend) == 8
    assert [blend.sample(i).tolist() for i in range(4)] == [[1, 0], [0, 0], [1, 1], [1, 2]]
    assert blend.locate(3, 9) == "1: 2, 9"


def test_request_has_half_a_percent_to_spare() -> None:
    assert samples_of_each([0.7, 0.3], 400) == [282, 121]
    assert samples_of_each([1.0], 1) == [2]


def test_weights_by_documents() -> None:
    # 245 and 287 documents at alpha 0.3: measured in gpt-neox.
    assert weights_by_documents([245, 287], 0.3) == pytest.approx([0.5277, 0.4723], abs=5e-5)
    assert weights_by_documents([7], 0.3) == [1.0]


@pytest.mark.parametrize("weights", [[0.0, 0.0], [2.0, -1.0], [float("nan"), 1.0], [float("inf")]])
def test_wrong_weights(weights: list[float]) -> None:
    with pytest.raises(UserError, match=r"^train-data-weights: "):
        normalised(weights, "train-data-weights")


def test_too_many_datasets() -> None:
    with pytest.raises(UserError, match="255 datasets in a blend"):
        Blend([Counting(0, 1)] * 255, [1.0] * 255)


def test_fingerprint_knows_weights_and_datasets() -> None:
    prints = [
        Blend([Counting(0, 6), Counting(1, size)], weights).fingerprint()
        for size, weights in ((2, [1, 3]), (2, [2, 6]), (3, [1, 3]), (2, [3, 1]))
    ]
    assert prints[0] == prints[1] and prints[0] not in prints[2:]
