"""The model beside which LoRA's matrices were trained, as an adapter's checkpoint records it.

Such a checkpoint holds what is trained alone. Its `meta` says where the other parameters are, by
the path or the hub's name that was given, and a fingerprint of them: beside another model the same
matrices would be another function.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax

from jaxneox.checksums import Sums, checksums
from jaxneox.errors import UserError

META = "base"
"""The entry of a checkpoint's `meta`: `where` and `fingerprint`."""


def fingerprint(params: Mapping[str, jax.Array]) -> str:
    """Return the SHA-256 of the names and checksums of parameters, the same on every mesh.

    On a mesh of several processes all must call this.
    """
    return fingerprint_of(checksums(dict(params)))


def fingerprint_of(sums: Sums) -> str:
    """Return the fingerprint of parameters whose checksums were made one by one."""
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def record(where: str, params: Mapping[str, jax.Array]) -> dict[str, str]:
    """Describe a base for `meta`.

    Args:
        where: its path, or its name at the hub.
        params: its parameters, as they are computed with.
    """
    return {"where": where, "fingerprint": fingerprint(params)}


def check(
    recorded: Mapping[str, Any], where: str, params: Mapping[str, jax.Array], adapter: object
) -> None:
    """Hold a base's parameters against those that an adapter was trained beside.

    Raises:
        UserError: they are others.
    """
    check_fingerprint(recorded, where, fingerprint(params), adapter)


def check_fingerprint(recorded: Mapping[str, Any], where: str, found: str, adapter: object) -> None:
    """Hold the fingerprint of a base against the recorded one, as `check` does."""
    if found != recorded["fingerprint"]:
        raise UserError(
            f"{adapter}: was trained beside another model than {where} is now: its parameters "
            f"differ from those of {recorded['where']} at that time"
        )
