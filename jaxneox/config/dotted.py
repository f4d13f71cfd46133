"""Keys inside blocks by their dotted names: `optimizer.params.lr`."""

from collections.abc import Mapping
from typing import Any

from jaxneox.config.keys import BLOCKS
from jaxneox.errors import UserError


def get(keys: Mapping[str, Any], name: str) -> Any:
    """Return a key's value, or None where there is none."""
    found: Any = keys
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def remove(keys: dict[str, Any], name: str) -> None:
    """Remove a key if it is there."""
    blocks, _, last = name.rpartition(".")
    inside = get(keys, blocks) if blocks else keys
    if isinstance(inside, dict):
        inside.pop(last, None)


def put(keys: dict[str, Any], name: str, value: Any) -> None:
    """Set a key; the blocks around it are made where they are absent or null.

    Raises:
        UserError: a part of the name is no block.
    """
    *blocks, last = name.split(".")
    for depth, part in enumerate(blocks, 1):
        block = keys.get(part) or {}
        if ".".join(blocks[:depth]) not in BLOCKS or not isinstance(block, dict):
            raise UserError(f"{name}: {part} has no keys inside it")
        keys[part] = block
        keys = block
    keys[last] = value


def flat(keys: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return all keys by their dotted names, those inside blocks too."""
    result: dict[str, Any] = {}
    for name, value in keys.items():
        inside = isinstance(value, dict)
        result |= flat(value, f"{prefix}{name}.") if inside else {f"{prefix}{name}": value}
    return result
