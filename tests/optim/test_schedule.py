"""The learning rate against NeoX's own numbers and against what the YAML says."""

import dataclasses
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxneox.config.schema import ScheduleConfig
from jaxneox.optim.schedule import build_schedule

STYLES = ("constant", "linear", "cosine", "exponential")
VARIANTS = {  # of the golden arrays, by suffix: (warm-up, min_lr)
    "": (10.0, 1e-4),
    "_nowarmup": (0.0, 1e-4),
    "_warmup12.5": (12.5, 1e-4),
    "_minlr0": (10.0, 0.0),
}
# Float32 knows the argument of the cosine, up to 4, to 2e-7, and the result to 6e-8.
ROUNDING = 3e-7


def rates(cfg: ScheduleConfig, steps: np.ndarray) -> np.ndarray:
    found = np.asarray(build_schedule(cfg)(steps), np.float64)
    by_numpy = np.asarray(build_schedule(cfg, np)(steps))
    assert by_numpy.dtype == np.float32  # as the step computes it
    np.testing.assert_allclose(by_numpy, found, rtol=ROUNDING, atol=ROUNDING * cfg.lr)
    return found


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_neoxs_own(shared: pathlib.Path, style, variant: str) -> None:
    expected = np.load(shared / "golden/data/lr/neox_annealing_lr.npz")[style + variant]
    warmup, low = VARIANTS[variant]
    cfg = ScheduleConfig(style, 1e-3, low, 1000, warmup, neox_head=True)
    found = rates(cfg, np.arange(len(expected)))
    np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING * cfg.lr)


@pytest.mark.parametrize("style", ["linear", "cosine"])
def test_neoxs_pythia(shared: pathlib.Path, style) -> None:
    golden = np.load(shared / "golden/data/lr/neox_pythia143000.npz")
    cfg = ScheduleConfig(style, 1e-3, 1e-4, 143000, 1430.0, neox_head=True)
    found = rates(cfg, golden["steps"])
    np.testing.assert_allclose(found, golden[style], rtol=ROUNDING, atol=ROUNDING * cfg.lr)


def test_a_warm_up_starts_at_zero_unless_neox_is_to_be_reproduced() -> None:
    expected = {
        False: [0, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 9e-4, 8e-4],
        True: [2e-4, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 9e-4, 8e-4],
    }
    for first, rate in expected.items():
        cfg = ScheduleConfig("linear", 1e-3, 0.0, 15, 5.0, neox_head=first)
        np.testing.assert_allclose(rates(cfg, np.arange(8)), rate, rtol=ROUNDING)


def test_neoxs_first_step_of_a_warm_up_shorter_than_one_is_above_lr() -> None:
    cfg = ScheduleConfig("linear", 1e-3, 0.0, 10, 0.1, neox_head=True)
    np.testing.assert_allclose(rates(cfg, np.arange(2)), [1e-2, 1e-3 * 9 / 9.9], rtol=ROUNDING)


def test_after_the_decay_the_rate_stays_unless_neox_is_to_be_reproduced() -> None:
    cosine = ScheduleConfig("cosine", 1e-3, 1e-4, 10, 0.0)
    np.testing.assert_allclose(rates(cosine, np.arange(10, 30)), 1e-4, rtol=ROUNDING)
    neox = dataclasses.replace(cosine, neox_head=True)
    np.testing.assert_allclose(rates(neox, np.array([20])), 1e-3, rtol=ROUNDING)


def test_without_a_warm_up_the_first_step_has_the_whole_rate() -> None:
    for style in STYLES:
        assert rates(ScheduleConfig(style, 1e-3, 0.0, 15), np.arange(1)) == np.float32(1e-3)


@st.composite
def schedules(draw: st.DrawFn) -> ScheduleConfig:
    lr, length = draw(st.floats(1e-6, 1.0)), draw(st.integers(2, 500))
    return ScheduleConfig(
        style=draw(st.sampled_from(STYLES)),
        lr=lr,
        min_lr=lr * draw(st.just(0.0) | st.floats(1e-3, 1)),
        decay_iters=length,
        warmup_iters=length * draw(st.just(0.0) | st.floats(1e-3, 0.9)),
    )


@given(schedules())
@settings(deadline=None, max_examples=60)
def test_between_its_bounds_falling_and_without_a_jump(cfg: ScheduleConfig) -> None:
    steps = np.minimum(np.arange(501), cfg.decay_iters)  # one shape: compiled once
    found = rates(cfg, steps)
    assert np.all(found >= 0) and found.max() <= cfg.lr * (1 + ROUNDING)
    after = found[steps > cfg.warmup_iters]
    slack = 10 * ROUNDING * cfg.lr  # the steps after the warm-up are a float32 difference
    assert after.min() >= cfg.min_lr * (1 - ROUNDING)
    assert np.all(np.diff(after) <= slack)
    if cfg.warmup_iters > 2:
        nearby = cfg.warmup_iters * np.array([1 - 1e-3, 1 + 1e-3])
        # one side changes by lr / warm-up a step, the other by less than 2 lr / (end - warm-up)
        most = 1e-3 + 2e-3 * cfg.warmup_iters / (cfg.decay_iters - cfg.warmup_iters)
        assert abs(np.subtract(*rates(cfg, nearby))) <= cfg.lr * (most + 1e-5)
