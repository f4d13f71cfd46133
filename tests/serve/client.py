"""A plain HTTP client, one connection a request."""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

CHAT = "/v1/chat/completions"
NONE: Mapping[str, str] = {}


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        return self.json["error"]["message"]


class Client:
    def __init__(self, port: int, timeout: float = 300):
        self.port, self._timeout = port, timeout
        self.headers: dict[str, str] = {}

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "application/json",
        headers: Mapping[str, str] = NONE,
    ) -> Answered:
        link = self._open(method, path, body, kind, headers)
        try:
            answer = link.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return Answered(answer.status, headers, answer.read())
        finally:
            link.close()

    def complete(self, **fields: Any) -> Answered:
        return self.ask("POST", "/v1/completions", json.dumps(fields).encode())

    def chat(self, *messages: Any, **fields: Any) -> Answered:
        body = json.dumps({"messages": messages, **fields}).encode()
        return self.ask("POST", CHAT, body)

    def stream_chat(self, *messages: Any, **fields: Any) -> Iterator[dict[str, Any]]:
        yield from self.stream(CHAT, messages=messages, **fields)

    def stream(self, path: str = "/v1/completions", **fields: Any) -> Iterator[dict[str, Any]]:
        """Its events; the connection is closed with the iterator. Fails unless the last is DONE."""
        body = json.dumps({**fields, "stream": True}).encode()
        link = self._open("POST", path, body, "application/json")
        try:
            answer = link.getresponse()
            if answer.status != 200:
                raise Unanswered(answer.status, answer.read().decode())
            for line in answer:
                data = line.decode().removeprefix("data: ").strip()
                if data == "[DONE]":
                    return
                if data:
                    yield json.loads(data)
            raise AssertionError("the stream has no end")
        finally:
            # a half-read answer keeps the socket open unless it is closed itself
            if link.sock is not None:
                link.sock.shutdown(socket.SHUT_RDWR)
            link.close()

    def _open(
        self,
        method: str,
        path: str,
        body: bytes | None,
        kind: str,
        headers: Mapping[str, str] = NONE,
    ):
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self._timeout)
        own = {"Connection": "close"} | ({"Content-Type": kind} if body is not None else {})
        link.request(method, path, body, own | self.headers | dict(headers))
        return link


class Unanswered(Exception):
    def __init__(self, status: int, body: str):
        super().__init__(f"{status}: {body}")
        self.status = status
