"""Small words between the processes, through the key-value store of jax's coordination service.

Nothing here runs on a device: it works before there is a mesh and while a step is stuck. Alone, a
process talks to itself.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from jaxneox.errors import UserError

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
PATIENCE = 24 * 3600 * 1000  # milliseconds; who does not come at all is the watch's business
_turns = itertools.count()


def client() -> Any:
    """jax's own connection to process 0 (Orbax takes it from the same place); None when alone."""
    from jax._src import distributed

    return distributed.global_state.client


def index() -> int:
    return jax.process_index() if client() is not None else 0


def count() -> int:
    return jax.process_count() if client() is not None else 1


def is_first() -> bool:
    """Whether this process writes what a run writes once, and speaks for it."""
    return index() == 0


def prefix() -> str:
    """What a line on stderr begins with: nothing for process 0."""
    return "" if is_first() else f"process {index()}: "


def told(make: Callable[[], T]) -> T:
    """What process 0 finds out, as JSON carries it, in every process; only process 0 calls `make`.

    All processes must call this, and `gathered`, in the same order.
    """
    if client() is None:
        return make()
    key = f"jaxneox/told/{next(_turns)}"
    if is_first():
        value = make()
        client().key_value_set(key, json.dumps(value))
    return json.loads(client().blocking_key_value_get(key, PATIENCE))


def gathered(value: T) -> list[T]:
    """The value of each process, in every process. Process 0 collects, so that it is 2 N words."""
    if client() is None:
        return [value]
    key = f"jaxneox/gathered/{next(_turns)}"
    client().key_value_set(f"{key}/{index()}", json.dumps(value))
    if is_first():
        each = [client().blocking_key_value_get(f"{key}/{i}", PATIENCE) for i in range(count())]
        client().key_value_set(f"{key}/all", json.dumps(each))
    return [
        json.loads(one)
        for one in json.loads(client().blocking_key_value_get(f"{key}/all", PATIENCE))
    ]


def together(kind: type[E], work: Callable[[], T]) -> T:
    """`work()` in every process, or in every process the error of the kind that one of them had."""
    if client() is None:
        return work()
    result: Any = None
    problem = None
    try:
        result = work()
    except kind as error:
        problem = str(error)
    for one, said in enumerate(gathered(problem)):
        if said is not None:
            raise kind(said if one == 0 else f"process {one}: {said}")
    return result


def check_same(what: str, value: dict[str, Any], hint: str) -> None:
    """Raises UserError in a process whose value is not process 0's, naming what differs."""
    mine = json.loads(json.dumps(value, default=str))
    first = told(lambda: mine)
    differing = [
        f"{name} is {mine.get(name)!s:.60} here and {first.get(name)!s:.60} there"
        for name in {**first, **mine}
        if mine.get(name) != first.get(name)
    ]
    if differing:
        raise UserError(f"{what} differs from process 0's: {'; '.join(differing)}; {hint}")
