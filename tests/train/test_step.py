"""The step: what it skips, what it sums, what it leaves in float32."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneox.config.optimization_schema import LossScaleConfig
from jaxneox.config.schema import LogConfig, PrecisionConfig, ScheduleConfig, TrainConfig
from jaxneox.train.plan import build_plan
from jaxneox.train.step.state import TrainState
from jaxneox.train.step.step import Evaluation
from tests.model.adapter import HASTE
from tests.reference.compare import relative_l2, worst_leaf
from tests.reference.parameters import random_params
from tests.train.running import BATCH, DROPPING, LENGTH, MODEL, Runner, config, tokens

NAN = np.full((BATCH, LENGTH), np.nan, np.float32)


def trained(state: TrainState) -> list[np.ndarray]:
    return jax.tree.leaves(jax.device_get((state.params, state.opt_state)))


def assert_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def compiled() -> Runner:
    return Runner(config())


@pytest.fixture
def runner(compiled: Runner) -> Iterator[Runner]:
    """At its first step, whatever the test before did."""
    state = compiled.state
    yield compiled
    compiled.state = state


def test_a_step_that_is_not_finite_is_skipped_and_the_next_goes_on(runner: Runner) -> None:
    start = runner.state
    rates = [runner(tokens(0))["lr"], runner(tokens(1))["lr"]]
    through = trained(runner.state)

    runner.state = start
    assert runner(tokens(0))["lr"] == rates[0]
    before = trained(runner.state)
    for streak in (1, 2):
        figures = runner(tokens(9), NAN)
        assert not np.isfinite(figures["loss"])
        assert (figures["skipped"], figures["streak"]) == (streak, streak)
        assert_equal(trained(runner.state), before)
    figures = runner(tokens(1))
    assert (figures["skipped"], figures["streak"], figures["lr"]) == (2, 0, rates[1])
    assert runner.state.step == 4
    assert_equal(trained(runner.state), through)


def test_a_batch_that_is_masked_altogether_is_skipped(runner: Runner) -> None:
    assert runner(tokens(0), np.zeros_like(NAN))["skipped"] == 1


def test_float16_finds_a_scale_that_does_not_overflow(runner: Runner) -> None:
    dynamic = LossScaleConfig(initial=2.0**24, window=2, hysteresis=1)
    half = Runner(config(precision=PrecisionConfig("float16", dynamic)))
    start, scales, losses = trained(half.state), [], []
    while not scales or half.state.streak:
        assert_equal(trained(half.state), start)
        figures = half(tokens(0))
        scales.append(float(figures["loss_scale"]))
        losses.append(float(figures["loss"]))
    # a token's gradient is near scale / 32, and float16 ends at 2^16
    assert 2 <= len(scales) <= 10
    assert scales == [2.0 ** (24 - i) for i in range(len(scales))]
    assert half.state.skipped == len(scales) - 1
    assert any(np.any(a != b) for a, b in zip(trained(half.state), start, strict=True))
    assert_float32(half.state, figures)

    exact = runner(tokens(0))  # an overflow is in the gradients alone
    assert losses == pytest.approx([float(exact["loss"])] * len(losses), rel=2.0**-11)
    assert worst_leaf(figures["grads"], exact["grads"])[0] <= 20 * 2.0**-11

    kept = scales[-1]
    figures = half(tokens(1))  # if finite, the second in a row, and the window is full
    expected = kept / 2 if figures["streak"] else kept * 2
    assert float(half.state.scale.factor) == expected


def assert_float32(state: TrainState, figures: dict[str, Any]) -> None:
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert len(moments) == 2 * len(state.params)
    kept = jax.tree.leaves((state.params, moments, figures["grads"]))
    assert {x.dtype for x in kept} == {np.dtype("float32")}
    assert figures["loss"].dtype == figures["grad_norm"].dtype == np.float32


def test_all_that_is_kept_is_float32() -> None:
    runner = Runner(config(precision=PrecisionConfig("bfloat16")))
    figures = runner(tokens(0))
    assert figures["streak"] == 0 and "loss_scale" not in figures
    assert_float32(runner.state, figures)


def masked() -> np.ndarray:
    """Weights of which some rows lack many and one row lacks all."""
    weights = (np.random.default_rng(3).random((BATCH, LENGTH)) > 0.4).astype(np.float32)
    weights[2] = 0
    return weights


REGULAR = config(
    DROPPING,
    schedule=ScheduleConfig("constant", lr=1e-2),
    train=TrainConfig(10, z_loss=0.01),
    log=LogConfig(param_norm=True),
)
LAYOUTS: list[dict[str, Any]] = [
    {"accumulation": 2},
    {"tp": 2, "accumulation": 4},  # one sequence at a time
    {"dp": 2, "tp": 2, "accumulation": 2},
]


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return Runner(REGULAR)(tokens(0), masked())


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_no_split_changes_masked_and_dropped_batches(layout: dict[str, int], whole) -> None:
    runner = Runner(REGULAR, **layout)
    figures = runner(tokens(0), masked())
    # sums in float32 in another order
    assert figures["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    for norm in ("grad_norm", "param_norm"):
        assert figures[norm] == pytest.approx(whole[norm], rel=1e-6)
    error, leaf = worst_leaf(figures["grads"], whole["grads"])
    assert error <= 5e-6, leaf


@pytest.mark.slow
def test_the_loss_is_the_mean_over_the_tokens_that_count() -> None:
    z_loss, weights = 0.01, masked()
    runner = Runner(config(train=TrainConfig(10, z_loss=z_loss)), accumulation=2)
    model, params, rows = runner.plan.model, runner.state.params, tokens(0)
    with jax.set_mesh(runner.mesh):
        logits = np.asarray(model.logits(params, jnp.asarray(rows[:, :-1])), np.float64)
    log_z = np.log(np.exp(logits).sum(-1))
    chosen = np.take_along_axis(logits, rows[:, 1:, None], -1)[..., 0]
    losses = log_z - chosen + z_loss * log_z**2
    expected = (losses * weights).sum() / weights.sum()
    assert runner(rows, weights)["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_masked_label_does_not_matter(runner: Runner) -> None:
    """The last label of a row is no input: without its weight, nothing knows of it."""
    weights, other = np.ones((BATCH, LENGTH), np.float32), tokens(0)
    weights[1, -1] = 0
    other[1, -1] = (other[1, -1] + 1) % 32
    state = runner.state
    expected = runner(tokens(0), weights)
    runner.state = state
    assert_equal(
        jax.tree.leaves(runner(other, weights)["grads"]), jax.tree.leaves(expected["grads"])
    )
    runner.state = state
    assert (
        relative_l2(runner(other)["grads"]["unembed.weight"], expected["grads"]["unembed.weight"])
        > 0.01
    )


@pytest.mark.slow
def test_masks_change_with_step_and_row_and_evaluation_has_none() -> None:
    runner = Runner(config(DROPPING))
    start, losses = runner.state, []
    for step in (0, 0, 1):
        runner.state = start._replace(step=jnp.int32(step))
        losses.append(float(runner(tokens(0))["loss"]))
    assert losses[0] == losses[1] != losses[2]

    same, counted = np.repeat(tokens(0)[:1], BATCH, axis=0), []
    for row in (0, 1):
        weights = np.zeros((BATCH, LENGTH), np.float32)
        weights[row] = 1
        runner.state = start
        counted.append(float(runner(same, weights)["loss"]))
    assert counted[0] != counted[1]

    def evaluated(model) -> float:
        plan = build_plan(config(model), {"dp": 1, "tp": 1})
        rows = jnp.asarray(tokens(0)[None])
        with jax.set_mesh(runner.mesh):
            weights = jnp.ones((1, BATCH, LENGTH), jnp.float32)
            evaluate = jax.jit(Evaluation(plan), compiler_options=HASTE)
            batch = {"tokens": rows, "weights": weights}
            (total, _), count, _ = evaluate(start.params, None, batch)
        assert count == BATCH * LENGTH
        return float(total / count)

    whole = evaluated(MODEL)
    assert evaluated(DROPPING) == whole
    assert all(abs(loss / whole - 1) > 1e-4 for loss in losses)


def test_param_norm_is_of_the_parameters_before_the_step(whole) -> None:
    squares = [np.sum(np.square(w, dtype=np.float64)) for w in random_params(MODEL, 0).values()]
    assert whole["param_norm"] == pytest.approx(math.sqrt(sum(squares)), rel=1e-6)


def test_grad_norm_is_that_of_the_gradient_before_clipping(runner: Runner) -> None:
    figures = runner(tokens(2))
    norm = math.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in figures["grads"].values()))
    assert figures["grad_norm"] == pytest.approx(norm, rel=1e-6)
    assert norm > 1.0
