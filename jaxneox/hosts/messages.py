"""Small messages between the processes, through the key-value store of jax's coordination service.

Nothing here runs on a device: it works before there is a mesh and while a step is stuck. A process
that is alone answers itself.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from jaxneox.errors import UserError

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
TIMEOUT = 24 * 3600 * 1000  # milliseconds; `watch` ends the run if a process never arrives
_turns = itertools.count()


def client() -> Any:
    """Return jax's own connection to process 0 (as Orbax does); None if the process is alone."""
    from jax._src import distributed

    return distributed.global_state.client


def index() -> int:
    return jax.process_index() if client() is not None else 0


def count() -> int:
    return jax.process_count() if client() is not None else 1


def is_first() -> bool:
    """Tell whether this process writes what a run writes once, and speaks for it."""
    return index() == 0


def prefix() -> str:
    """Return the beginning of a line on stderr: nothing for process 0."""
    return "" if is_first() else f"process {index()}: "


def broadcast(make: Callable[[], T]) -> T:
    """Return in every process what process 0 makes, as JSON carries it.

    Only process 0 calls `make`. All processes must call this, and `gather_all`, in the same order.
    """
    if client() is None:
        return make()
    key = f"jaxneox/broadcast/{next(_turns)}"
    if is_first():
        value = make()
        client().key_value_set(key, json.dumps(value))
    return json.loads(client().blocking_key_value_get(key, TIMEOUT))


def gather_all(value: T) -> list[T]:
    """Return in every process the values of all.

    Process 0 collects them, so that it takes 2 N messages.
    """
    if client() is None:
        return [value]
    key = f"jaxneox/gather_all/{next(_turns)}"
    client().key_value_set(f"{key}/{index()}", json.dumps(value))
    if is_first():
        each = [client().blocking_key_value_get(f"{key}/{i}", TIMEOUT) for i in range(count())]
        client().key_value_set(f"{key}/all", json.dumps(each))
    return [
        json.loads(one)
        for one in json.loads(client().blocking_key_value_get(f"{key}/all", TIMEOUT))
    ]


def fail_together(kind: type[E], work: Callable[[], T]) -> T:
    """Do `work()` in every process, or raise in every process the error that one of them had."""
    if client() is None:
        return work()
    result: Any = None
    problem = None
    try:
        result = work()
    except kind as error:
        problem = str(error)
    for process, reason in enumerate(gather_all(problem)):
        if reason is not None:
            raise kind(reason if process == 0 else f"process {process}: {reason}")
    return result


def check_same(what: str, value: dict[str, Any], hint: str) -> None:
    """Compare a value with process 0's.

    Raises:
        UserError: in a process whose value differs, naming what differs.
    """
    mine = json.loads(json.dumps(value, default=str))
    first = broadcast(lambda: mine)
    differing = [
        f"{name} is {mine.get(name)!s:.60} here and {first.get(name)!s:.60} there"
        for name in {**first, **mine}
        if mine.get(name) != first.get(name)
    ]
    if differing:
        raise UserError(f"{what} differs from process 0's: {'; '.join(differing)}; {hint}")
