"""The effect of each opcode of a pickle on the machine: protocols 0 to 5 of Lib/pickletools.py.

Only values that a file made itself are changed: lists, dictionaries, sets and `Inert` objects. The
extension registry and buffers that lie elsewhere are refused.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from convert.readers.pickle_machine import Inert, Machine, refuse_key, refuse_keys

LONGEST = 128 << 20  # bytes of a pickle
STEPS = 12 << 20  # opcodes of a pickle: seconds, and less than a gigabyte of what they push
DIGITS = 160  # of a number; torch's and NumPy's random states have 39
STOP = ord(".")

Step = Callable[[Machine], object]


def run(machine: Machine) -> Any:
    """Return the value that the machine's pickle makes.

    Raises:
        ValueError: it is damaged or goes beyond the limits; the message is half a sentence.
    """
    if len(machine.content) > LONGEST:
        raise ValueError(f"a pickle of {len(machine.content)} bytes: at most {LONGEST} are read")
    try:
        for _ in range(STEPS):
            code = machine.content[machine.at]
            if code == STOP:
                return machine.stack.pop()
            machine.at += 1
            OPCODES[code](machine)
    except (LookupError, TypeError, struct.error, UnicodeError, SyntaxError) as error:
        raise ValueError(f"its pickle is broken at byte {machine.at}") from error
    raise ValueError(f"a pickle of more than {STEPS} operations")


# Numbers and text


def _whole(text: bytes) -> int | bool:
    if text in (b"00", b"01"):  # as protocol 0 writes False and True
        return text == b"01"
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text.removesuffix(b"L"))


def _long(machine: Machine, width: int) -> int:
    length = machine.count(width)
    if length > DIGITS // 2:
        raise ValueError(f"a number of {length} bytes")
    return int.from_bytes(machine.take(length), "little", signed=True)


def _float(machine: Machine) -> float:
    (value,) = struct.unpack(">d", machine.take(8))
    return float(value)


def _text(machine: Machine, width: int) -> str:
    return machine.take(machine.count(width)).decode("utf-8", "surrogatepass")


def _old_text(machine: Machine, width: int) -> str:
    """Read a string of Python 2, which may hold bytes."""
    return machine.take(machine.count(width)).decode("latin-1")


def _quoted(machine: Machine) -> str:
    line = machine.line()
    if line[:1] not in (b'"', b"'") or line[-1:] != line[:1] or len(line) < 2:
        raise ValueError("a text without quotes")
    return line[1:-1].decode("unicode_escape")


# Containers


def _put(target: Any, items: list[Any]) -> None:
    """Put keys and values, in turns, into a dictionary; an object stays as it is."""
    if len(items) % 2:
        raise ValueError("a key without a value")
    if type(target) not in (dict, OrderedDict, Inert):
        raise _changes(target)
    if type(target) is not Inert:
        for key, value in zip(items[::2], items[1::2], strict=True):
            refuse_key(key)
            target[key] = value


def _append(target: Any, items: list[Any]) -> None:
    if type(target) not in (list, Inert):
        raise _changes(target)
    if type(target) is list:
        target.extend(items)


def _add(target: Any, items: list[Any]) -> None:
    if type(target) is not set:
        raise _changes(target)
    refuse_keys(items)
    target.update(items)


def _frozen(items: list[Any]) -> frozenset[Any]:
    refuse_keys(items)
    return frozenset(items)


def _dictionary(items: list[Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    _put(made, items)
    return made


def _changes(target: Any) -> ValueError:
    return ValueError(f"a pickle that changes a {type(target).__name__}")


def _tuple(machine: Machine, count: int) -> tuple[Any, ...]:
    items = tuple(machine.stack[-count:])
    if len(items) < count:
        raise ValueError("a tuple of what is not there")
    del machine.stack[-count:]
    return items


def _one(put: Callable[[Any, list[Any]], None], count: int) -> Step:
    def change(machine: Machine) -> None:
        items = list(_tuple(machine, count))
        put(machine.stack[-1], items)

    return change


def _all(put: Callable[[Any, list[Any]], None]) -> Step:
    def change(machine: Machine) -> None:
        items = machine.marked()
        put(machine.stack[-1], items)

    return change


# Names and objects


def _stack_global(machine: Machine) -> Any:
    module, name = _tuple(machine, 2)
    if type(name) is not str or type(module) is not str:
        raise ValueError("a name that is no text")
    return machine.find(module, name)


def _call(machine: Machine) -> Any:
    function, arguments = _tuple(machine, 2)
    if not callable(function) or type(arguments) is not tuple:
        raise ValueError("a call of what is no function")
    return function(*arguments)


def _new(kind: Any, arguments: Any, options: Any = None) -> Inert:
    if kind is not Inert or type(arguments) is not tuple or not isinstance(options, dict | None):
        raise ValueError("an object of what is no class")
    return Inert(*arguments)


def _inst(machine: Machine) -> Inert:
    kind = machine.find(machine.line().decode(), machine.line().decode())
    return _new(kind, tuple(machine.marked()))


def _obj(machine: Machine) -> Inert:
    kind, *arguments = machine.marked()
    return _new(kind, tuple(arguments))


def _build(machine: Machine) -> None:
    """Set an object's state; the attributes of an OrderedDict, torch's versions, are dropped."""
    state, target = machine.stack.pop(), machine.stack[-1]
    if type(target) is Inert:
        target.state = state
    elif type(target) is not OrderedDict:
        raise _changes(target)


# The stack and the memo


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.marked()


def _pushing(value: Callable[[Machine], Any]) -> Step:
    return lambda m: m.stack.append(value(m))


def _making(value: Callable[[Machine], Any]) -> Step:
    return lambda m: m.make(value(m))


VALUES: Mapping[bytes, Callable[[Machine], Any]] = {
    b"N": lambda m: None,
    b"\x88": lambda m: True,
    b"\x89": lambda m: False,
    b"I": lambda m: _whole(m.line()),
    b"L": lambda m: _whole(m.line()),
    b"J": lambda m: int.from_bytes(m.take(4), "little", signed=True),
    b"K": lambda m: m.count(1),
    b"M": lambda m: m.count(2),
    b"\x8a": lambda m: _long(m, 1),
    b"\x8b": lambda m: _long(m, 4),
    b"F": lambda m: float(m.line()),
    b"G": _float,
    b"S": _quoted,
    b"T": lambda m: _old_text(m, 4),
    b"U": lambda m: _old_text(m, 1),
    b"V": lambda m: m.line().decode("raw_unicode_escape"),
    b"X": lambda m: _text(m, 4),
    b"\x8c": lambda m: _text(m, 1),
    b"\x8d": lambda m: _text(m, 8),
    b"B": lambda m: m.take(m.count(4)),
    b"C": lambda m: m.take(m.count(1)),
    b"\x8e": lambda m: m.take(m.count(8)),
    b"\x96": lambda m: m.take(m.count(8)),
    b"2": lambda m: m.stack[-1],
    b"g": lambda m: m.memo[_whole(m.line())],
    b"h": lambda m: m.memo[m.count(1)],
    b"j": lambda m: m.memo[m.count(4)],
    b"c": lambda m: m.find(m.line().decode(), m.line().decode()),
    b"\x93": _stack_global,
    b"P": lambda m: m.persistent(m.line().decode()),
    b"Q": lambda m: m.persistent(m.stack.pop()),
}
"""Opcodes that push a value, which they do not make anew or which is no larger than they are."""

OBJECTS: Mapping[bytes, Callable[[Machine], Any]] = {
    b"]": lambda m: [],
    b"l": lambda m: m.marked(),
    b"}": lambda m: {},
    b"d": lambda m: _dictionary(m.marked()),
    b"\x8f": lambda m: set(),
    b"\x91": lambda m: _frozen(m.marked()),
    b")": lambda m: (),
    b"t": lambda m: tuple(m.marked()),
    b"\x85": lambda m: _tuple(m, 1),
    b"\x86": lambda m: _tuple(m, 2),
    b"\x87": lambda m: _tuple(m, 3),
    b"R": _call,
    b"i": _inst,
    b"o": _obj,
    b"\x81": lambda m: _new(*_tuple(m, 2)),
    b"\x92": lambda m: _new(*_tuple(m, 3)),
}
"""Opcodes that push a new container or object, which count."""

CHANGES: Mapping[bytes, Step] = {
    b"\x80": lambda m: m.take(1),  # the protocol
    b"\x95": lambda m: m.take(8),  # a frame's length
    b"(": Machine.mark,
    b"0": _pop,
    b"1": Machine.marked,
    b"a": _one(_append, 1),
    b"e": _all(_append),
    b"s": _one(_put, 2),
    b"u": _all(_put),
    b"\x90": _all(_add),
    b"b": _build,
    b"p": lambda m: m.remember(_whole(m.line())),
    b"q": lambda m: m.remember(m.count(1)),
    b"r": lambda m: m.remember(m.count(4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
}

OPCODES: Mapping[int, Step] = {
    **{ord(code): _pushing(value) for code, value in VALUES.items()},
    **{ord(code): _making(value) for code, value in OBJECTS.items()},
    **{ord(code): step for code, step in CHANGES.items()},
}
