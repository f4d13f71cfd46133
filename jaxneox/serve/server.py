"""The process: a socket, uvicorn in the main thread, the scheduler in another, and its end."""

import asyncio
import contextlib
import functools
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, cast

import uvicorn

from jaxneox.errors import UserError
from jaxneox.serve.access import AccessRules
from jaxneox.serve.app import make_app
from jaxneox.serve.connections import KEEP_ALIVE, Connection, Connections
from jaxneox.serve.scheduler import Load, Scheduler

GRACE = 5.0
"""Seconds that running answers have at the end; two more, and all is over."""

CONNECTIONS = 512
BACKLOG = 128
"""Connections that are accepted at one time, before the limit is looked at."""
SWEEP = 0.5
"""Seconds between two looks at all connections."""

SWITCH = 5e-4
"""Seconds after which a thread gives way; the engine's thread waits for the requests' no longer.

Python's 5e-3 are as long as a small model's step.
"""


class Server(uvicorn.Server):
    """Ends by itself if the scheduler ends before it is ready; a signal ends it with status 0."""

    def __init__(
        self,
        scheduler: Scheduler,
        timeout: float,
        access: AccessRules,
        connections: int = CONNECTIONS,
    ):
        self.connections = Connections(connections)
        config = uvicorn.Config(
            make_app(scheduler, timeout, access),
            http=cast(Any, functools.partial(Connection, self.connections)),
            ws="none",
            backlog=BACKLOG,
            proxy_headers=False,
            lifespan="off",
            log_config=None,  # it would close the handlers of whoever started us
            log_level="error",  # its warnings are of clients' mistakes
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=int(GRACE) + 2,
        )
        super().__init__(config)
        self._scheduler = scheduler
        self.end = 0.0  # when all is to be over, once there is a signal

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal.

        Uvicorn's own would raise it again at the end. A second one does not wait.
        """
        self.force_exit = self.should_exit
        self.should_exit = True
        if self.force_exit:
            silence()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            self.connections.sweep()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.end = time.monotonic() + GRACE + 2
        self._scheduler.stop(GRACE)
        hurry = asyncio.get_running_loop().call_later(GRACE + 1, self._hurry)
        await super().shutdown(sockets)
        hurry.cancel()
        self._sweeper.cancel()

    def _hurry(self) -> None:
        """Close the connections of clients that neither send nor read what is left."""
        silence()
        self.connections.abort()


def silence() -> None:
    """Keep uvicorn from printing where each request was when it was cut off at the end."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)


def bind(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes any that is free."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as undo:
            listener = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # who comes before the server is up waits
            undo.pop_all()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"{host}:{port}: cannot listen there ({error}); choose another --port or --host"
        ) from error
    return listener


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    listener: socket.socket,
    scheduler: Scheduler,
    timeout: float,
    access: AccessRules,
    connections: int,
    load: Load,
    ready: Callable[[], object],
) -> None:
    """Serve until a signal.

    `load(say)` makes what is served, in the thread that goes on with it; what it raises is raised
    here. `ready()` is called there when requests are taken.
    """
    server = Server(scheduler, timeout, access, connections)
    sys.setswitchinterval(SWITCH)

    def work() -> None:
        scheduler.run(load, ready)
        if scheduler.models is None:
            server.should_exit = True

    thread = threading.Thread(target=work, name="scheduler", daemon=True)
    thread.start()
    server.run([listener])
    end = time.monotonic() + 1 if server.force_exit else server.end
    ended = have_ended([thread, *holding_threads()], end)
    if scheduler.fault is not None and scheduler.models is None:
        raise scheduler.fault
    if not ended:  # it compiles, renders or encodes, and cannot be told to stop
        sys.stdout.flush()
        os._exit(0)


def holding_threads() -> list[threading.Thread]:
    """List the threads for which Python would wait at its end: those that parse requests."""
    own = threading.current_thread()
    return [one for one in threading.enumerate() if one is not own and not one.daemon]


def have_ended(threads: Sequence[threading.Thread], end: float) -> bool:
    """Wait for threads up to a time of the monotonic clock, a second at least."""
    end = max(end, time.monotonic() + 1)
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
