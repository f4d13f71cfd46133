"""The account looks at every element, some rows at a time."""

import ml_dtypes
import numpy as np
import pytest

from convert import fate
from convert.proof.numbers import same_bits

DTYPES = [np.dtype(name) for name in ("float16", "float32", "float64", ml_dtypes.bfloat16)]
SHAPES = [(), (1,), (23,), (23, 7), (5, 3, 4), (0, 3)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fate, "BLOCK", 64)


def numbers(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_number_that_is_not_finite_is_counted(shape: tuple[int, ...], dtype) -> None:
    array = numbers(shape, dtype)
    assert fate.not_finite(array) == 0
    for place, value in zip(np.ndindex(shape), [np.nan, np.inf, -np.inf] * 80, strict=False):
        array[place] = value
    assert fate.not_finite(array) == array.size
    largest = np.full(shape, ml_dtypes.finfo(dtype).max, dtype)
    assert fate.not_finite(largest) == 0


def test_integers_are_finite() -> None:
    assert fate.not_finite(np.full(9, -1)) == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_sum_of_bits_is_of_all_elements(shape: tuple[int, ...], dtype) -> None:
    array = numbers(shape, dtype)
    bits = array.view(f"u{dtype.itemsize}")
    assert fate.bit_sum(array) == int(bits.sum(dtype=np.uint64))


@pytest.mark.parametrize("shape", [(23,), (23, 7), (5, 3, 4)])
def test_a_single_other_bit_is_seen(shape: tuple[int, ...]) -> None:
    array = numbers(shape, np.dtype(np.float16))
    assert same_bits(array, array.copy())
    for place in np.ndindex(shape):
        other = array.copy()
        other.view(np.uint16)[place] ^= 1
        assert not same_bits(array, other), place
