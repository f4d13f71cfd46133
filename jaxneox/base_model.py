"""The model beside which LoRA's matrices were trained, as an adapter's checkpoint records it.

Such a checkpoint holds what is trained alone. Its `meta` says where the other parameters are, by
the path or the hub's name that was given, and a fingerprint of them: beside another model the same
matrices would be another function.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from jaxneox.checksums import Sums
from jaxneox.errors import UserError

META = "base"
"""The entry of a checkpoint's `meta`: `where` and `fingerprint`."""


def fingerprint(sums: Sums) -> str:
    """Return the SHA-256 of the names and checksums of a base's parameters in float32."""
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def record(where: str, sums: Sums) -> dict[str, str]:
    """Describe a base for `meta`.

    Args:
        where: its path, or its name at the hub.
        sums: the checksums of its parameters.
    """
    return {"where": where, "fingerprint": fingerprint(sums)}


def where(recorded: Mapping[str, Any], adapter: object) -> str:
    """Return where an adapter's base is.

    Raises:
        UserError: it does not say.
    """
    found = recorded.get("where")
    if not isinstance(found, str) or not found:
        raise UserError(
            f"{adapter}: does not say beside which model it was trained; copy it again from its "
            "source, or name the model: MODEL --adapter RUN"
        )
    return found


def check(recorded: Mapping[str, Any], given: str, sums: Sums, adapter: object) -> None:
    """Hold a base's parameters against those that an adapter was trained beside.

    Args:
        recorded: what the adapter says of its base.
        given: where a base is.
        sums: the checksums of its parameters.
        adapter: the adapter's folder.

    Raises:
        UserError: they are others.
    """
    if fingerprint(sums) != recorded.get("fingerprint"):
        raise UserError(
            f"{adapter}: was trained beside another model than {given} is now: its parameters "
            f"differ from those of {recorded.get('where')} at that time"
        )
