"""Settings that config.json has under several names."""

from collections.abc import Mapping
from typing import Any

from jaxneox.errors import UserError


def agreed(named: Mapping[str, Any], default: Any) -> Any:
    """Return the value that is given under any of several names, or the default if none is.

    Raises:
        UserError: the names have different values.
    """
    values = list(named.values())
    if any(value != values[0] for value in values[1:]):
        parts = " but ".join(f"{name} is {value!r}" for name, value in named.items())
        raise UserError(f"{parts}: they are one setting; correct config.json")
    return values[0] if values else default
