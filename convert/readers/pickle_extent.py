"""Limits on the depth and the size of a value that a file gave, counted without recursion.

A list can hold another one twice, and that one a third twice: a few bytes stand for a value that
nobody can walk through, print, compare or hash.
"""

from collections.abc import Iterable
from typing import Any

from convert.readers.pickle_machine import Inert

DEEPEST = 64  # containers and objects in each other
ANY_FILE = 1 << 20  # values that a pickle may come to, however short it is
A_BYTE = 8  # values that each byte of it may come to


def refuse_overgrown(value: Any, length: int) -> None:
    """Refuse a value that contains itself, is too deep, or is far larger than its pickle.

    Args:
        value: what the pickle made.
        length: the pickle's bytes.

    Raises:
        ValueError: it is one of these; the message is half a sentence.
    """
    most = max(ANY_FILE, A_BYTE * length)
    sizes: dict[int, int] = {}  # of those that are done, each shared value as often as it is used
    path: dict[int, tuple[Any, Iterable[Any]]] = {}  # from the outermost to where we are

    def enter(one: Any) -> None:
        path[id(one)] = (one, iter(_inside(one)))
        sizes[id(one)] = 1

    if not _inside(value):
        return
    enter(value)
    while path:
        own, (_, rest) = next(reversed(path.items()))
        for part in rest:
            key = id(part)
            if key in path:
                raise ValueError("a value that contains itself")
            if key not in sizes and _inside(part):
                if len(path) >= DEEPEST:
                    raise ValueError(f"more than {DEEPEST} values in each other")
                enter(part)
                break
            sizes[own] += sizes.get(key, 1)
        else:
            del path[own]
            if path:
                sizes[next(reversed(path))] += sizes[own]
        if sizes[own] > most:
            raise ValueError("a value that holds the same values over and over")


def _inside(value: Any) -> Iterable[Any]:
    """Return what a container or an object holds; nothing for a number, a text or a tensor."""
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return value
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if kind is Inert:
        return (*value.args, value.state)
    return ()
