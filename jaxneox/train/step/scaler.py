"""DeepSpeed's loss scale for float16, static or dynamic, as part of the compiled step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxneox.config.optimization_schema import LossScaleConfig


class Scale(NamedTuple):
    """The loss scale and the counts by which it changes.

    The names of its fields are those in checkpoints.

    Attributes:
        factor: float32 [], multiplies the loss.
        calm: int32 [], finite steps since the last overflow or growth.
        patience: int32 [], overflows that are still forgiven.
    """

    factor: jax.Array
    calm: jax.Array
    patience: jax.Array


def initial_scale(cfg: LossScaleConfig | None) -> Scale:
    """Return the first scale; without a configuration (float32, bfloat16) the factor stays 1."""
    factor = 1.0 if cfg is None else cfg.static or cfg.initial
    patience = 1 if cfg is None else cfg.hysteresis
    return Scale(jnp.float32(factor), jnp.int32(0), jnp.int32(patience))


def next_scale(scale: Scale, finite: jax.Array, cfg: LossScaleConfig | None) -> Scale:
    """Update the scale after a step.

    After `window` finite steps in a row the factor doubles and the patience is full again; with
    `consecutive_hysteresis` every finite step fills the patience. A step that overflows takes one
    of it; once only one is left it halves the factor
    (deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler).
    """
    if cfg is None or cfg.static is not None:
        return scale
    grow = finite & (scale.calm + 1 >= cfg.window)
    halve = ~finite & (scale.patience <= 1)
    smaller = jnp.maximum(scale.factor / 2, cfg.minimum)
    factor = jnp.where(grow, scale.factor * 2, jnp.where(halve, smaller, scale.factor))
    calm = jnp.where(finite & ~grow, scale.calm + 1, 0)
    spent = jnp.where(finite, scale.patience, jnp.maximum(scale.patience - 1, 1))
    full = finite if cfg.consecutive_hysteresis else grow
    return Scale(factor, calm, jnp.where(full, cfg.hysteresis, spent))
