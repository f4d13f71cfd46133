"""Ctrl-C or SIGTERM is caught, and at one process stops all of them after the same step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxneox.hosts import messages


@contextmanager
def interruptions() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets; a second signal ends the process as usual.

    Outside of the main thread Python lets nobody look at signals: then only a program sets it.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: object) -> None:
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class SharedStop:
    """Tells whether any process has its event set, with the same answer in every process.

    It is called once before each step. Alone, it is the event. Each of several processes puts its
    flag on its devices, and the largest comes back to all; it is read one step late, so that no
    step waits.
    """

    def __init__(self, mesh: Mesh, event: threading.Event):
        self.event = event
        self.size = mesh.size
        self.sharding = NamedSharding(mesh, P(mesh.axis_names))
        self.largest = jax.jit(jnp.max)
        self.waiting: jax.Array | None = None

    def __call__(self) -> bool:
        if messages.count() == 1:
            return self.event.is_set()
        flag = np.full(1, self.event.is_set(), np.int32)
        flags = jax.make_array_from_callback((self.size,), self.sharding, lambda at: flag)
        before, self.waiting = self.waiting, self.largest(flags)
        return before is not None and bool(before.item())
