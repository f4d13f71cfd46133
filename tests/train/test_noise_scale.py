"""The gradient noise scale, and other figures that are logged if they are asked for."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxneox.config.schema import LogConfig
from jaxneox.train.step.noise_scale import no_estimate, noise_figures, with_step
from tests.config.cases import error
from tests.config.cases import run as resolved
from tests.train.running import Runner, config, tokens
from tests.train.runs import metrics, succeeds, write_yaml

STEPS = 2
LOGS = LogConfig(noise_scale=STEPS, grad_pct_zeros=True, optimizer_norms=True)


def estimates(grads: np.ndarray, batch: int, steps: int, last_alone: bool) -> list[Any]:
    """|G|^2 and tr(S) of every `steps` of the gradients [step, n], in float64.

    Source: McCandlish et al. 2018, appendix A.1.
    """
    found = []
    for part in grads.astype(np.float64).reshape(-1, steps, grads.shape[1]):
        big, small = np.sum(part.mean(axis=0) ** 2), np.sum(part**2, axis=1)
        small = small[-1] if last_alone else small.mean()
        b, many = batch, batch * steps
        found.append(((many * big - b * small) / (many - b), (small - big) / (1 / b - 1 / many)))
    return found


def taken(grads: np.ndarray, finite: list[bool] | None = None, **settings: Any) -> list[Any]:
    """The state after each step."""
    noise, states = no_estimate({"w": grads.shape[1:]}), []
    for number, gradient in enumerate(grads):
        good = finite is None or finite[number]
        noise = with_step(noise, {"w": jnp.asarray(gradient)}, jnp.bool_(good), **settings)
        states.append(noise)
    return states


@pytest.mark.parametrize("last_alone", [False, True])
def test_the_papers_estimates_and_running_means_without_bias(last_alone: bool) -> None:
    grads = np.random.default_rng(0).normal(0.3, 1, (12, 40)).astype(np.float32)
    states = taken(grads, batch=4, steps=3, last_alone=last_alone)
    raw = np.array(estimates(grads, 4, 3, last_alone))
    for k in range(1, 5):
        weights = 0.99 ** np.arange(k)[::-1]
        gradient, variance = weights @ raw[:k] / weights.sum()
        figures = {name: float(x) for name, x in noise_figures(states[3 * k - 1]).items()}
        assert figures["noise_scale_gradient"] == pytest.approx(gradient, rel=1e-4)  # 1 - 0.99^k
        assert figures["noise_scale_variance"] == pytest.approx(variance, rel=1e-4)
        assert figures["noise_scale"] == pytest.approx(variance / gradient, rel=1e-5)
    assert math.isnan(noise_figures(states[1])["noise_scale"])


def test_a_known_noise() -> None:
    """Gradients of batches of 8 with a variance of 4 each in 50 numbers, around one of norm 10."""
    random, true = np.random.default_rng(1), np.full(50, math.sqrt(2))
    grads = (true + random.normal(0, 2 / math.sqrt(8), (600, 50))).astype(np.float32)
    figures = noise_figures(taken(grads, batch=8, steps=5, last_alone=False)[-1])
    # 120 estimates of tr(S), each of 200 squares of normal numbers: 2 % of it is three deviations
    assert float(figures["noise_scale_variance"]) == pytest.approx(200, rel=0.05)
    assert float(figures["noise_scale"]) == pytest.approx(2, rel=0.05)


def test_neoxs_numbers(shared: Path) -> None:
    """GradientNoiseScale of NeoX on the same gradients; its running means are not divided."""
    with np.load(shared / "golden/neox_posttrain/key_noise_scale/golden.npz") as arrays:
        expected = {name.removeprefix("noise/"): arrays[name] for name in arrays}
    states = taken(expected["grads"], batch=4, steps=3, last_alone=True)
    for number, noise in enumerate(states):
        if number < 2:
            assert np.isnan(expected["noise_scale"][number]) and not noise.estimates
            continue
        pairs = {
            "ema_noise": noise.gradient,
            "ema_scale": noise.variance,
            "noise_scale": noise_figures(noise)["noise_scale"],
        }
        for name, found in pairs.items():  # float32 on both sides
            assert float(found) == pytest.approx(expected[name][number], rel=2e-6), name


def test_a_step_without_finite_gradients_does_not_count() -> None:
    grads = np.random.default_rng(2).normal(0.3, 1, (4, 10)).astype(np.float32)
    broken = np.insert(grads, 1, np.nan, axis=0)
    finite = [True, False, True, True, True]
    settings: Any = {"batch": 4, "steps": 2}
    for last_alone in (False, True):
        found = taken(broken, finite, last_alone=last_alone, **settings)[-1]
        expected = taken(grads, last_alone=last_alone, **settings)[-1]
        assert [float(x) for x in found[1:]] == [float(x) for x in expected[1:]]


@pytest.mark.slow
def test_a_step_logs_them_on_any_mesh() -> None:
    """By the gradients of the steps themselves, and with a batch that is cut."""
    cfg = dataclasses.replace(config(), log=LOGS)
    one = Runner(cfg)
    steps = [one(tokens(number)) for number in range(STEPS)]
    flat = np.stack([np.concatenate([g.ravel() for g in s["grads"].values()]) for s in steps])
    ((gradient, variance),) = estimates(flat, cfg.batch.global_size, STEPS, False)
    assert steps[-1]["noise_scale_gradient"] == pytest.approx(gradient, rel=1e-4)
    assert steps[-1]["noise_scale_variance"] == pytest.approx(variance, rel=1e-4)
    assert steps[-1]["grad_pct_zeros"] == pytest.approx(100 * np.mean(flat[-1] == 0), rel=1e-5)
    moments = one.state.opt_state
    mu = next(part.mu for part in moments if hasattr(part, "mu"))
    norm = math.sqrt(sum(float(jnp.sum(m**2)) for m in mu.values()))
    assert steps[-1]["optimizer_mu_norm"] == pytest.approx(norm, rel=1e-5)
    split = Runner(cfg, dp=2, tp=2, accumulation=2)
    found = [split(tokens(number)) for number in range(STEPS)][-1]
    for name, value in steps[-1].items():
        if name.startswith(("noise_scale", "optimizer_")):
            # differences of squared norms, as in BOUNDS of tests/parallel/cases.py
            assert found[name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.slow
def test_a_run_goes_on_with_its_noise_scale_and_with_other_logs(tmp_path: Path) -> None:
    logs = {"log_gradient_noise_scale": True, "gradient_noise_scale_n_batches": 3}
    yaml = write_yaml(tmp_path, **logs)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    succeeds(yaml, "--mesh", "dp=1", "--save", whole)
    succeeds(yaml, "--mesh", "dp=1", "--save", parts, "--set", "exit-interval=7")
    succeeds(parts, "--mesh", "dp=1", "--set", "exit-interval=10")
    assert metrics(parts) == metrics(whole)[:10]
    assert metrics(parts)[1]["noise_scale"] is None
    assert metrics(parts)[9]["noise_scale"] is not None
    key, start = "log-gradient-noise-scale", (parts, "--mesh", "dp=2", "--set")
    succeeds(*start, "exit-interval=11", f"{key}=false")
    assert "noise_scale" not in metrics(parts)[10]
    succeeds(
        parts, "--mesh", "dp=2", "--set", "exit-interval=null", "log-gradient-noise-scale=true"
    )
    assert metrics(parts)[11]["noise_scale"] is None


def test_the_keys() -> None:
    assert resolved().log.noise_scale is None
    assert resolved(log_gradient_noise_scale=True).log.noise_scale == 5
    assert resolved(log_optimizer_states=True, log_grad_pct_zeros=True).log.optimizer_norms
    growing = {"rampup_batch_size": [2, 2, 9], "train_batch_size": 8}
    line = error(log_gradient_noise_scale=True, train_micro_batch_size_per_gpu=2, **growing)
    assert "rampup_batch_size changes it" in line
    assert "from 2" in error(log_gradient_noise_scale=True, gradient_noise_scale_n_batches=1)
