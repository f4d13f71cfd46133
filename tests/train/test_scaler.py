"""The loss scale against DeepSpeed's scaler, written down plainly."""

from collections.abc import Sequence
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxneox.config.optimization_schema import LossScaleConfig
from jaxneox.train.step.scaler import initial_scale, next_scale

LENGTH = 40
DYNAMIC = [
    LossScaleConfig(None, initial, window, hysteresis, minimum, consecutive)
    for consecutive in (False, True)
    for initial, window, hysteresis, minimum in [
        (2.0**16, 1000, 2, 1.0),
        (2.0**4, 3, 2, 1.0),
        (2.0**4, 1, 1, 0.5),
        (8.0, 2, 3, 2.0),
        (1.0, 5, 4, 1.0),
    ]
]


def deepspeeds(cfg: LossScaleConfig, finite: Sequence[bool]) -> list[float]:
    """The scale after each step: deepspeed/runtime/fp16/loss_scaler.py, DynamicLossScaler, which
    counts steps from 0 and takes -1 for the last overflow's."""
    scale, forgiven, last_overflow = cfg.initial, cfg.hysteresis, -1
    scales = []
    for step, good in enumerate(finite):
        if good:
            if cfg.consecutive_hysteresis:
                forgiven = cfg.hysteresis
            if (step - last_overflow) % cfg.window == 0:
                scale, forgiven = scale * 2, cfg.hysteresis
        else:
            last_overflow = step
            if forgiven == 1:
                scale = max(scale / 2, cfg.minimum)
            else:
                forgiven -= 1
        scales.append(scale)
    return scales


@cache
def compiled(cfg: LossScaleConfig | None):
    def step(scale, finite):
        scale = next_scale(scale, finite, cfg)
        return scale, scale.factor

    return jax.jit(lambda finite: jax.lax.scan(step, initial_scale(cfg), finite)[1])


def ours(cfg: LossScaleConfig | None, finite: Sequence[bool]) -> np.ndarray:
    return np.asarray(compiled(cfg)(jnp.array(finite)))


@given(st.sampled_from(DYNAMIC), st.data())
@settings(deadline=None, max_examples=100)
def test_dynamic_is_deepspeeds(cfg: LossScaleConfig, data: st.DataObject) -> None:
    # long runs of either kind, as in practice
    runs = data.draw(st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=12))
    finite = [good for good, count in runs for _ in range(count)][:LENGTH]
    finite += [True] * (LENGTH - len(finite))
    np.testing.assert_array_equal(ours(cfg, finite), deepspeeds(cfg, finite))


@pytest.mark.parametrize("cfg", [None, LossScaleConfig(static=128.0)])
def test_static_and_none_never_change(cfg: LossScaleConfig | None) -> None:
    expected = 1.0 if cfg is None else 128.0
    assert set(ours(cfg, [True, False] * (LENGTH // 2))) == {expected}
    assert initial_scale(cfg).factor == expected
