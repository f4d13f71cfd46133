"""Megatron-LM's float16 loss scale as ours.

Its dynamic scale (core/optimizer/grad_scaler.py) doubles after `loss_scale_window` finite steps in
a row, which also fill the hysteresis again, and halves with an overflow once the hysteresis is used
up: a tracker of 1 or less. That is DeepSpeed's scale, whose patience stops at 1.
"""

from collections.abc import Mapping
from math import frexp
from typing import Any

from convert.megatron.schedule import number
from convert.readers.megatron_states import Scaler
from jaxneox.config.optimization_schema import LossScaleConfig


def loss_scale_keys(
    args: Mapping[str, Any], scaler: Scaler | None
) -> tuple[dict[str, Any], list[str]]:
    """Return NeoX's keys, and notes on inexact ones; absent arguments have Megatron's defaults."""
    initial = number(args, "initial_loss_scale") or 2.0**32
    window = number(args, "loss_scale_window") or 1000.0
    block = {
        "enabled": True,
        "loss_scale": number(args, "loss_scale") or 0.0,
        "initial_scale_power": max(0, frexp(initial)[1] - 1),
        "loss_scale_window": max(1, int(window)),
        "hysteresis": max(1, int(number(args, "hysteresis") or 2)),
        "min_loss_scale": number(args, "min_loss_scale") or 1.0,
    }
    notes = []
    if not block["loss_scale"] and scaler is None:
        notes.append(
            "the optimizer's files have no dynamic loss scale (grad_scaler): it begins anew, at "
            f"{2.0 ** block['initial_scale_power']:g} (initial_loss_scale {initial:g})"
        )
    if not block["loss_scale"] and (window % 1 or (scaler and scaler.growth >= window)):
        notes.append(
            f"loss_scale_window is {window:g}, which Megatron's count of steps without an overflow "
            "can no longer be: there the scale does not grow, here it does"
        )
    return {"fp16": block}, notes


def loss_scale_of(scaler: Scaler | None, loss: LossScaleConfig) -> tuple[float, int, int] | None:
    """Return the factor, calm steps and overflows still forgiven; None for a fresh run."""
    if scaler is None or loss.static is not None:
        return None
    return scaler.scale, scaler.growth % loss.window, max(1, scaler.hysteresis)
