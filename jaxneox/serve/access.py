"""The check of who is answered: by the name that the server was asked by, and by a key.

Any web page can let its own name stand for 127.0.0.1 (DNS rebinding). Its scripts may then ask a
server on the reader's machine and read the answers, because to the browser both are one origin.
Only the `Host` and `Origin` that the browser sends tell such requests from others.
"""

import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxneox.errors import UserError
from jaxneox.serve.errors import RefusedRequest

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
VARIABLE = "JAXNEOX_API_KEY"
OPEN_PATHS = ("/", "/health")
"""The paths that need no key: the page, which asks for it, and the state of the server."""

AUTHORITY = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:/?#@\s]+)(:\d*)?", re.IGNORECASE)


@dataclass(frozen=True)
class AccessRules:
    """The rules by which a request is answered or refused.

    Attributes:
        hosts: names of this server; None if it may be asked by any.
        key: what a request needs as its bearer token; None for nothing.
    """

    hosts: frozenset[str] | None = None
    key: str | None = field(default=None, repr=False)

    def check(self, scope: Mapping[str, Any]) -> None:
        """Check the head of a request.

        Args:
            scope: ASGI's.

        Raises:
            RefusedRequest: it is not to be answered.
        """
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        if self.hosts is not None:
            own = (scope.get("server") or ("",))[0]  # no other name can stand for an address
            names = {*self.hosts, own}
            hosts = [value for name, value in headers if name == b"host"]
            for value in hosts or [""]:
                check_name("Host", value, host_name(value), names)
            for value in (value for name, value in headers if name == b"origin"):
                scheme, _, rest = value.rpartition("://")
                web = scheme.lower() in ("http", "https")
                check_name("Origin", value, host_name(rest) if web else None, names)
        if self.key is not None and scope["path"] not in OPEN_PATHS:
            given = [value for name, value in headers if name == b"authorization"]
            check_key(given[0] if given else "", self.key)


def rules_at(address: str, names: Iterable[str], key: str | None) -> AccessRules:
    """Make the rules of a server.

    Args:
        address: the address at which it listens. At a loopback address it answers to local names
            alone, at another to any.
        names: more names to which it answers; with them it answers to no others at any address.
        key: the key that is asked for, if one is.
    """
    names = frozenset(names)
    return AccessRules(names | LOCAL if names or is_loopback(address) else None, key)


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def key_in_environment() -> str | None:
    """Return the key that $JAXNEOX_API_KEY has; None if it is not set.

    Raises:
        UserError: it cannot be sent in a header. The line does not show it.
    """
    key = os.environ.get(VARIABLE)
    if key is not None and not is_key(key):
        raise UserError(
            f"{VARIABLE}: expected visible ASCII characters without spaces; set it anew, or unset "
            "it to ask for no key"
        )
    return key


def is_key(text: str) -> bool:
    return re.fullmatch(r"[!-~]+", text) is not None


def host_name(authority: str) -> str | None:
    """Return the name or address in `name:port`, lower-case and without brackets; None if none."""
    found = AUTHORITY.fullmatch(authority.strip())
    return found and found["name"].strip("[]").lower().removesuffix(".")


def check_name(header: str, value: str, name: str | None, names: set[str]) -> None:
    if name not in names:
        raise RefusedRequest(
            403,
            f"{header}: {value[:100]!r} is no name of this server; ask it as localhost, or start "
            "it with --allow-host NAME",
            code="host_not_allowed",
        )


def check_key(header: str, key: str) -> None:
    """Check an Authorization header, in a time that does not depend on what is wrong with it."""
    scheme, _, given = header.partition(" ")
    digests = (hashlib.sha256(text.encode()).digest() for text in (given.strip(), key))
    if not hmac.compare_digest(*digests) or scheme.lower() != "bearer":
        what = "missing" if not header else "not the key of this server"
        raise RefusedRequest(
            401,
            f"API key: {what}; expected the header Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
