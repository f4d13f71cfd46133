"""Errors as OpenAI writes them."""

from collections.abc import Mapping
from typing import Any


class RefusedRequest(Exception):
    """A request that gets `status` and a reason; below 500 the fault is its own.

    Attributes:
        param: the field that is wrong.
        code: OpenAI's word for the reason, if it has one.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def later(message: str) -> RefusedRequest:
    """Make the error of a request that may be answered soon."""
    return RefusedRequest(503, message, code="unavailable", headers={"Retry-After": "1"})
