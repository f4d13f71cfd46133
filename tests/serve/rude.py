"""Clients that mean no good, or do not know what they do, each with what must come of it."""

import contextlib
import random
import socket
import time

from tests.serve.client import Client

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = HEAD + b"Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
MALFORMED = [
    CHUNKED + b"ZZ\r\n",
    HEAD + b": x\r\n\r\n",
    HEAD + HEAD,
    HEAD + b"X: " + b"x" * 100_000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,  # a TLS client's hello
    b"\r\n\r\n\r\n",
]
FOREIGN = [
    {"Host": "evil.attacker.com"},
    {"Host": "localhost.evil.com:8000"},
    {"Origin": "http://evil.attacker.com"},
    {"Origin": "null"},
]


def garbage(client: Client, draw: random.Random) -> str | None:
    """Send what is not HTTP; return what was wrong with the answer."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=60) as link:
        with contextlib.suppress(ConnectionError):
            link.sendall(draw.choice(MALFORMED))
            link.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(ConnectionError):
            while part := link.recv(1 << 16):
                found += part
    return None if not found or found.startswith(b"HTTP/1.1 4") else repr(found[:80])


def foreign(client: Client, draw: random.Random) -> str | None:
    answer = client.ask("GET", "/v1/models", headers=draw.choice(FOREIGN))
    return None if answer.status == 403 else f"{answer.status} {answer.body[:80]!r}"


def wrong_key(client: Client, draw: random.Random) -> str | None:
    other = draw.choice(({"Authorization": "Bearer no"}, {"Authorization": ""}))
    body = draw.choice((b'{"prompt": "a"}', b"x" * (1 << 20)))
    answer = client.ask("POST", "/v1/completions", body, headers=other)
    return None if answer.status == 401 else f"{answer.status} {answer.body[:80]!r}"


class HalfHeads:
    """Connections that send a half of a head and nothing more, `count` of them at all times."""

    def __init__(self, port: int, count: int):
        self._port, self._count = port, count
        self._links: list[socket.socket] = []
        self.opened = self.closed = 0

    def keep_up(self, end: float) -> None:
        while time.monotonic() < end:
            self._drop_closed()
            while len(self._links) < self._count and time.monotonic() < end:
                with contextlib.suppress(OSError):
                    link = socket.create_connection(("127.0.0.1", self._port), timeout=5)
                    link.sendall(HEAD + b"X-")
                    link.setblocking(False)
                    self._links.append(link)
                    self.opened += 1
            time.sleep(0.5)
        for link in self._links:
            link.close()

    def _drop_closed(self) -> None:
        left = []
        for link in self._links:
            try:
                over = link.recv(4096) is not None  # a 408, or the end
            except BlockingIOError:
                over = False
            except OSError:
                over = True
            if over:
                link.close()
                self.closed += 1
            else:
                left.append(link)
        self._links = left
