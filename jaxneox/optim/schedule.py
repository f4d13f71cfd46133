"""The learning rate at each step: linear warm-up, then constant or a decay to `min_lr`."""

import math

import jax
import jax.numpy as jnp
import optax

from jaxneox.config.schema import ScheduleConfig


def build_schedule(cfg: ScheduleConfig) -> optax.Schedule:
    """step (0-based count of updates made) -> learning rate, float32.

    NeoX's formulas (megatron/learning_rates.py, AnnealingLR): with n steps after the warm-up and
    m steps of decay in all, linear lr (m - n) / m, cosine min + (lr - min) (1 + cos(pi n / m)) / 2,
    exponential lr exp(-0.693 n / m), never below min_lr. The first step of a warm-up has rate 0,
    and after the decay the rate stays. With `neox_head` the first step has the second's rate, and
    the formulas run on: a cosine rises again.
    """
    warmup, low, lr = cfg.warmup_iters, cfg.min_lr, cfg.lr
    length = max(cfg.decay_iters - warmup, 1e-9)
    first, end = (1.0, math.inf) if cfg.neox_head else (0.0, length)

    def decayed(n: jax.Array) -> jax.Array:
        match cfg.style:
            case "linear":
                return lr * (length - n) / length
            case "cosine":
                return low + (lr - low) / 2 * (jnp.cos(math.pi * n / length) + 1)
            case "exponential":
                return lr * jnp.exp(-0.693 * n / length)
            case "constant":
                return jnp.full_like(n, lr)

    def schedule(count: jax.Array) -> jax.Array:
        step = jnp.asarray(count, jnp.float32)
        after = jnp.maximum(decayed(jnp.minimum(step - warmup, end)), low)
        if warmup <= 0:
            return after
        return jnp.where(step <= warmup, lr * jnp.maximum(step, first) / warmup, after)

    return schedule
