"""What is drawn: NeoX's filter, the distribution itself, and seeds that know no company."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jaxneox.errors import UserError
from jaxneox.infer.sampling import Sampling, SamplingArrays, choose, limit, sampling_arrays
from tests.infer.test_stream import HURRY

VOCAB = 23
limited, chosen = jax.jit(limit), jax.jit(choose)


def neox_filter(logits: NDArray[np.float32], top_k: int, top_p: float) -> NDArray[np.bool_]:
    """Which tokens stay, sorted as megatron/text_generation_utils.py `filter_logits` does it."""
    kept = np.ones(len(logits), bool)
    if top_k > 0:
        kept &= logits >= np.sort(logits)[::-1][top_k - 1]
    if top_p > 0:
        masked = np.where(kept, logits.astype(np.float64), -np.inf)
        order = np.argsort(-masked, kind="stable")
        shares = np.exp(masked[order] - masked.max())
        above = np.cumsum(shares / shares.sum()) > top_p
        kept[order[np.concatenate([[False], above[:-1]])]] = False
    return kept


@example(12, 0, 1.0, 6.0)  # two of the tail
@given(
    st.integers(0, 2**32 - 1), st.integers(0, VOCAB), st.floats(0, 1, width=32), st.floats(0.1, 20)
)
@settings(HURRY, max_examples=200)
def test_what_stays_is_what_neox_leaves(seed: int, top_k: int, top_p: float, width: float) -> None:
    logits = np.random.default_rng(seed).normal(0, width, VOCAB).astype(np.float32)
    how = sampling_arrays([Sampling(1.0, top_p, top_k)])
    kept = np.isfinite(np.asarray(limited(jnp.asarray(logits[None]), how)))[0]
    expected = neox_filter(logits, top_k, top_p)
    mass = np.exp(logits.astype(np.float64) - logits.max())
    mass /= mass[logits >= np.sort(logits)[::-1][(top_k or VOCAB) - 1]].sum()
    # sums of float32 that lie on top_p: near 1 the tail's are all one number
    for token in np.flatnonzero(kept != expected):
        assert mass[logits > logits[token]].sum() == pytest.approx(top_p, abs=1e-6)


def test_tokens_as_likely_as_the_last_that_stays_stay() -> None:
    logits = jnp.array([[1.0, 3.0, 2.0, 2.0, 0.0]])
    kept = np.isfinite(np.asarray(limit(logits, sampling_arrays([Sampling(top_k=2)]))))
    assert kept.tolist() == [[False, True, True, True, False]]


def test_draws_follow_the_distribution() -> None:
    rows = 20_000
    logits = np.array([0.0, 1.0, 2.0, -np.inf, 3.0], np.float32)
    how = sampling_arrays([Sampling(2.0, seed=seed) for seed in range(rows)])
    zero = jnp.zeros(rows, jnp.int32)
    drawn = np.asarray(chosen(jnp.tile(logits, (rows, 1)), how, zero))
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum()
    shares = np.bincount(drawn, minlength=5) / rows
    # Five standard deviations of a share.
    assert (np.abs(shares - expected) <= 5 * np.sqrt(expected * (1 - expected) / rows)).all()


def test_a_row_draws_the_same_in_any_company() -> None:
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(0, 2, (6, VOCAB)).astype(np.float32))
    hows = [Sampling(1.0, 0.9, 5, seed=9), Sampling(), *[Sampling(0.7, seed=n) for n in range(4)]]
    numbers = jnp.arange(6, dtype=jnp.int32)
    together = np.asarray(choose(logits, sampling_arrays(hows), numbers))
    for row, how in enumerate(hows):
        alone = choose(logits[row : row + 1], sampling_arrays([how]), numbers[row : row + 1])
        assert int(alone[0]) == together[row]


@pytest.mark.slow
def test_each_token_of_an_answer_is_another_draw() -> None:
    logits = jnp.zeros((1, 1000))
    how = sampling_arrays([Sampling(1.0)])
    drawn = {int(choose(logits, how, jnp.array([number]))[0]) for number in range(20)}
    assert len(drawn) > 15


@pytest.mark.parametrize(
    ("how", "greedy"),
    [
        (Sampling(), True),
        (Sampling(temperature=0.0, top_k=1), True),
        (Sampling(temperature=1e-3), True),
        (Sampling(temperature=1e-40), True),
        (Sampling(temperature=1.0, top_p=1e-50), True),
        (Sampling(top_p=1.0), False),  # NeoX: drawn, at temperature 1
        (Sampling(temperature=1.0), False),
    ],
)
def test_what_is_greedy(how: Sampling, greedy: bool) -> None:
    logits = jnp.tile(jnp.array([[0.0, 0.3, 0.2]]), (64, 1))
    drawn = choose(logits, sampling_arrays([how] * 64), jnp.arange(64, dtype=jnp.int32))
    assert (set(np.asarray(drawn).tolist()) == {1}) is greedy


def test_greedy_takes_the_first_of_equals() -> None:
    logits = jnp.array([[0.0, 2.0, 2.0]])
    zero: SamplingArrays = sampling_arrays([Sampling()])
    assert int(choose(logits, zero, jnp.array([0]))[0]) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 1.5},
        {"top_p": float("nan")},
        {"top_k": -1},
        {"seed": -1},
        {"seed": 2**32},
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)
