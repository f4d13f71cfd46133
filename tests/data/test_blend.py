"""Blends: NeoX's and Megatron's choices one by one, and NeoX's weights."""

import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxneox.data.order import blend
from jaxneox.data.order.blend import (
    blend_indices,
    normalised,
    samples_of_each,
    weights_by_documents,
)
from jaxneox.errors import UserError
from tests.data import golden

WEIGHTS = st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(any)


def one_by_one(weights: list[float], size: int, limits: list[int] | None = None) -> list[int]:
    """Which dataset is furthest behind its share, slowly."""
    used = [0] * len(weights)
    chosen = []
    for i in range(size):
        left = [k for k in range(len(weights)) if limits is None or used[k] < limits[k]]
        chosen.append(max(left, key=lambda k: weights[k] * float(max(i, 1)) - float(used[k])))
        used[chosen[-1]] += 1
    return chosen


@given(WEIGHTS, st.integers(1, 3000), st.sampled_from([1, 7, 100]))
@settings(max_examples=80, deadline=None)
def test_lanes_are_one_by_one(numbers: list[int], size: int, shortest: int) -> None:
    weights = normalised(numbers, "weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blend, "SHORTEST_LANE", shortest)
        dataset_index, sample_index = blend_indices(weights, size)
    assert [dataset_index.dtype.name, sample_index.dtype.name] == ["uint8", "int64"]
    assert dataset_index.tolist() == one_by_one(weights, size)
    for k in range(len(weights)):
        mine = sample_index[dataset_index == k]
        np.testing.assert_array_equal(mine, np.arange(len(mine)))


@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.sampled_from([1, 7, 100]))
@settings(max_examples=60, deadline=None)
def test_all_of_each(limits: list[int], shortest: int) -> None:
    weights = normalised(limits, "weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blend, "SHORTEST_LANE", shortest)
        dataset_index, _ = blend_indices(weights, sum(limits), limits)
    assert dataset_index.tolist() == one_by_one(weights, sum(limits), limits)
    assert np.bincount(dataset_index).tolist() == limits


def test_lanes_that_begin_wrong_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """However bad the guesses: here every lane begins from counts of nothing at all."""
    monkeypatch.setattr(blend, "SHORTEST_LANE", 10)
    monkeypatch.setattr(
        blend.Lanes, "nearly", lambda lanes: np.zeros((len(lanes.shares), lanes.count))
    )
    weights = [0.6, 0.1, 0.3]
    assert blend_indices(weights, 500)[0].tolist() == one_by_one(weights, 500)


def test_order_by_hand() -> None:
    # i = 0 counts as 1; equals go to the first.
    assert blend_indices((0.5, 0.5), 5)[0].tolist() == [0, 1, 0, 1, 0]
    assert blend_indices((0.25, 0.75), 6)[0].tolist() == [1, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("name", ["blend", "blend_surplus", "blend_by_num_docs"])
@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_indices_are_neox(shared: pathlib.Path, name: str, part: str) -> None:
    expected = golden.arrays(shared, "neox", f"batches_{name}_dp1_rank0")
    weights = {"train": [0.7, 0.3], "valid": [0.5, 0.5], "test": [2.0, 1.0]}[part]
    if name == "blend_by_num_docs":
        weights = weights_by_documents([245, 287], 0.3)
    shares = np.array(normalised(weights, "weights"))
    size = sum(int(expected[f"{part}_{k}_len"]) for k in range(2))
    found = blend_indices((shares / shares.sum()).tolist(), size)
    for array, key in zip(found, ("index", "sample_index"), strict=True):
        assert array.dtype == expected[f"{part}_dataset_{key}"].dtype
        np.testing.assert_array_equal(array, expected[f"{part}_dataset_{key}"])


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
