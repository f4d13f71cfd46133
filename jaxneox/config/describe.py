"""A resolved configuration in plain lines, and the keys that are saved with a run."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from jaxneox.config.batch import portable_keys
from jaxneox.config.schema import Config


def describe(config: Config) -> str:
    """One line a value, `model.hidden_size  512`, in the order of the schema."""
    rows = list(_rows(config, ""))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _rows(config: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _rows(value, f"{prefix}{field.name}.")
        elif not (isinstance(config, Config) and field.name in ("keys", "notes")):
            odd = isinstance(value, str) and not value.isprintable()
            yield f"{prefix}{field.name}", repr(value) if odd else str(value)


def saved_keys(config: Config) -> dict[str, Any]:
    """What is written to RUN/config.yml: the user's keys, with what the devices decided resolved.

    Loaded again under any dp that divides the global batch, they give the same batch and model.
    """
    return portable_keys(config)
