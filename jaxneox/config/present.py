"""Keys of NeoX's past in the names that its HEAD knows."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from jaxneox.config.check import stands_for
from jaxneox.config.fates import Alias
from jaxneox.config.keys.past import REMOVED, RENAMED


def in_present_names(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys as a YAML for NeoX's HEAD has them.

    Renamed keys get their present names, and removed ones, which change nothing here, are left out.
    """
    found = deepcopy(dict(keys))
    for name, key in RENAMED.items():
        value = _take(found, name)
        if value is None or not isinstance(key.fate, Alias):
            continue
        meant = stands_for(name, value)
        if meant is not None:
            _put(found, key.fate.of, meant)
    for name in REMOVED:
        _take(found, name)
    return found


def _take(keys: dict[str, Any], name: str) -> Any:
    """Remove a key, which may lie in blocks; return its value, or None where there is none."""
    *blocks, last = name.split(".")
    for block in blocks:
        inner = keys.get(block)
        if not isinstance(inner, dict):
            return None
        keys = inner
    return keys.pop(last, None)


def _put(keys: dict[str, Any], name: str, value: Any) -> None:
    *blocks, last = name.split(".")
    for block in blocks:
        inner = keys.setdefault(block, {})
        if not isinstance(inner, dict):
            return
        keys = inner
    keys.setdefault(last, value)
