"""Connections as uvicorn has them, with limits of time and number, and errors of ours.

Whatever a client sends or fails to send, its connection ends in time, others are answered
meanwhile, and nothing is written to the log.
"""

import asyncio
import json
import resource
import sys
from http import HTTPStatus
from typing import Any, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from jaxneox.serve.errors import RefusedRequest, later

Stage = Literal["head", "body", "answer", "discarding", "idle", "closing"]
"""What a connection waits for: a head, a body, the answer, the rest of a body that nobody wants, a
next request of which nothing has come, or its own end."""

SECONDS: dict[Stage, float] = {"head": 10, "discarding": 5, "closing": 5}
"""How long each stage may take; `completions` limits a body, and the option --timeout all of it."""
KEEP_ALIVE = 150
"""Seconds for which a connection is kept between two requests.

It must be longer than clients keep theirs, or a request may be sent just as the server closes, and
fails: httpx (OpenAI's client, LangChain) keeps them for 5 seconds, aiohttp 15, Go 90, LiteLLM 120.
"""
UNREAD = 30.0
"""Seconds in which a client must read some of an answer that waits for it."""
RESERVE = 256
"""Files that the process needs besides its connections."""
LEAST = 16
EXPENDABLE: tuple[tuple[Stage, ...], ...] = (("discarding", "closing"), ("head", "idle"), ("body",))
"""The stages in which a connection is closed for a new one, in this order; never one that waits for
its answer."""


def file_limit(most: int) -> int:
    """Let the process open files for `most` connections; return for how many it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < most + RESERVE:
        wanted = most + RESERVE
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return most if soft == resource.RLIM_INFINITY else min(most, max(LEAST, soft - RESERVE))


class Connections:
    """All open connections, `most` at a time."""

    def __init__(self, most: int):
        self.most = most
        self._open: dict[Connection, None] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: "Connection") -> bool:
        """Add a connection, and close another if there are too many.

        Returns:
            Whether there was room, or one that could be closed.
        """
        fits = len(self._open) < self.most or self._close_one()
        if fits:
            self._open[connection] = None
        return fits

    def discard(self, connection: "Connection") -> None:
        self._open.pop(connection, None)

    def sweep(self) -> None:
        """Close what has had its time."""
        for connection in list(self._open):
            connection.check()

    def abort(self) -> None:
        """Close all at once, whatever they wait for."""
        for connection in list(self._open):
            connection.transport.abort()

    def _close_one(self) -> bool:
        for stages in EXPENDABLE:
            found = [c for c in self._open if c.stage in stages]
            if found:
                oldest = min(found, key=lambda connection: connection.since)
                self.discard(oldest)
                oldest.transport.abort()
                return True
        return False


class Connection(H11Protocol):
    """One connection.

    Attributes:
        since: when its stage began, by the loop's clock.
    """

    def __init__(self, connections: Connections, **uvicorns: Any):
        super().__init__(**uvicorns)
        self._all = connections
        self._refused = False
        self._seen: Stage | None = None
        self._stuck: float | None = None  # since when nobody reads what is written
        self.since = self.loop.time()

    @property
    def stage(self) -> Stage:
        if self._refused or self.transport.is_closing():
            return "closing"
        if self.cycle is None:
            return "head"
        if self.cycle.response_complete:
            if self.conn.their_state is h11.SEND_BODY:
                return "discarding"
            return "head" if self.conn.trailing_data[0] else "idle"
        return "body" if self.cycle.more_body else "answer"

    def check(self) -> None:
        """Close the connection if its stage has taken too long."""
        now, stage = self.loop.time(), self.stage
        if stage != self._seen:
            self._begin(stage)
        if self._stuck is not None and now - self._stuck > UNREAD:
            self.transport.abort()
        elif now - self.since > SECONDS.get(stage, float("inf")):
            if stage == "head" and self.conn.trailing_data[0]:
                limit = f"the head of the request did not come within {SECONDS['head']:g} s"
                self.refuse(RefusedRequest(408, limit))
            elif stage == "head":
                self.transport.close()
            else:
                self.transport.abort()

    def _begin(self, stage: Stage | None) -> None:
        self._seen, self.since = stage, self.loop.time()

    def refuse(self, error: RefusedRequest) -> None:
        """Send an error outside of any exchange, and close once the client has read it."""
        body = json.dumps(error.body()).encode()
        headers = {"Content-Type": "application/json", "Content-Length": len(body)}
        headers |= {"Connection": "close", **(error.headers or {})}
        lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self._refused = True
        self._begin("closing")
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # what uvicorn and asyncio call

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._all.add(self):
            self.refuse(later(f"all of {self._all.most} connections are taken"))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def handle_events(self) -> None:
        try:
            super().handle_events()
        except h11.ProtocolError:  # of a state that no exchange leaves behind
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; uvicorn calls it while it handles the error."""
        error = sys.exc_info()[1]
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            begun = self.cycle.response_started
        else:
            begun = self.conn.our_state is not h11.IDLE
        if begun:  # the client has an answer, or a part of one
            self.transport.close()
            return
        status = getattr(error, "error_status_hint", 400)
        self.refuse(RefusedRequest(status, f"this is not a valid HTTP/1.1 request: {error}"))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._begin(None)

    def timeout_keep_alive_handler(self) -> None:
        self.transport.close()

    def shutdown(self) -> None:
        if self.stage in ("body", "answer"):
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stuck = None
