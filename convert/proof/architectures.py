"""The settings of two models, side by side."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from jaxneox.config.schema import ModelConfig

FREE = {"seq_length", "init", "hidden_dropout", "attention.dropout", "attention.softmax_fp32"}
"""Settings that the function of a sequence does not depend on."""


def settings_that_differ(a: ModelConfig, b: ModelConfig) -> list[str]:
    there, here = dict(_settings(a)), dict(_settings(b))
    return [
        f"{name} is {there.get(name)} there and {here.get(name)} here"
        for name in there | here  # an optional part may be in one of both
        if there.get(name) != here.get(name)
        and name not in FREE
        and name.partition(".")[0] not in FREE
    ]


def _settings(cfg: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for entry in fields(cfg):
        value = getattr(cfg, entry.name)
        if is_dataclass(value):
            yield from _settings(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", value
