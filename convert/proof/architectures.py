"""The settings of two models, side by side."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from jaxneox.config.schema import ModelConfig

FREE = {"seq_length", "init", "hidden_dropout", "attention.dropout", "attention.softmax_fp32"}
"""Settings that the function of a sequence does not depend on."""


def settings_that_differ(a: ModelConfig, b: ModelConfig) -> list[str]:
    return [
        f"{name} is {left} there and {right} here"
        for (name, left), (_, right) in zip(_settings(a), _settings(b), strict=True)
        if left != right and name not in FREE and name.partition(".")[0] not in FREE
    ]


def _settings(cfg: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for entry in fields(cfg):
        value = getattr(cfg, entry.name)
        if is_dataclass(value):
            yield from _settings(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", value
