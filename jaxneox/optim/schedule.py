"""The learning rate at each step: linear warm-up, then constant or a decay to `min_lr`."""

import math
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxneox.config.schema import ScheduleConfig


def build_schedule(cfg: ScheduleConfig, xp: ModuleType = jnp) -> optax.Schedule:
    """Build a function from the step (0-based count of updates made) to the learning rate, float32.

    NeoX's formulas (megatron/learning_rates.py, AnnealingLR): with n steps after the warm-up and
    m steps of decay in all, linear lr (m - n) / m, cosine min + (lr - min) (1 + cos(pi n / m)) / 2,
    exponential lr exp(-0.693 n / m), never below min_lr. The first step of a warm-up has rate 0,
    and after the decay the rate stays. With `neox_head` the first step has the second's rate, and
    the formulas run on: a cosine rises again. Before 2023-08, when Pythia and 20B were trained, m
    counted the warm-up too, and the cosine went to 0: `old`.

    `xp` is what computes it: jax.numpy for the step, or NumPy, which waits for no device.
    """
    warmup, low, lr = cfg.warmup_iters, cfg.min_lr, cfg.lr
    length = cfg.decay_iters if cfg.old else max(cfg.decay_iters - warmup, 1e-9)
    lowest = 0.0 if cfg.old else low
    first = 1.0 if cfg.neox_head else 0.0
    end = math.inf if cfg.neox_head or cfg.old else length

    def decayed(n: jax.Array) -> jax.Array:
        match cfg.style:
            case "linear":
                return lr * (length - n) / length
            case "cosine":
                return lowest + (lr - lowest) / 2 * (xp.cos(math.pi * n / length) + 1)
            case "exponential":
                return lr * xp.exp(-0.693 * n / length)
            case "constant":
                return xp.full_like(n, lr)

    def schedule(count: jax.Array) -> jax.Array:
        step = xp.asarray(count, np.float32)
        after = xp.maximum(decayed(xp.minimum(step - warmup, end)), low)
        if warmup <= 0:
            return after
        return xp.where(step <= warmup, lr * xp.maximum(step, first) / warmup, after)

    return schedule
