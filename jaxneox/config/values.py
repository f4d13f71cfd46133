"""Keys that are given as Python's values instead of YAML."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxneox.config.strict_yaml import spelled
from jaxneox.errors import UserError, cut


def keys_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys as a YAML file would have them, spelled with `_` at every depth.

    Args:
        values: what YAML has; also tuples, paths, and numbers and arrays of NumPy and jax.

    Raises:
        UserError: a key is no text or is there in both spellings, or a value is something else.
    """
    if not isinstance(values, Mapping):
        raise UserError(
            f"the configuration: found {cut(repr(values))}, expected a dictionary of keys"
        )
    return _mapping(values, "")


def _mapping(values: Mapping[Any, Any], within: str) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise UserError(f"the configuration: {within}{name!r} is no key, which is a text")
        known = spelled(name)
        if known in keys:
            raise UserError(
                f"the configuration: {within}{known} is there twice: keep one of the two"
            )
        keys[known] = _value(value, f"{within}{known}")
    return keys


def _value(value: Any, name: str) -> Any:
    match value:
        case Mapping():
            return _mapping(value, f"{name}.")
        case list() | tuple():
            return [_value(each, name) for each in value]
        case np.generic():  # also those that are Python's float or str
            return value.item()
        case os.PathLike():
            return os.fspath(value)
        case None | bool() | int() | float() | str():
            return value
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.kind in "biufU":
            return array.tolist()
    raise UserError(
        f"the configuration: {name} is {type(value).__name__}, expected what YAML has: a text, a "
        "number, true or false, a list or a mapping"
    )
