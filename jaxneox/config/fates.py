"""The one fate of a YAML key: it sets a field, it is needless here, or it is refused.

`jaxneox.config.keys` is a table of these, one line a key; the program and docs/configuration.md
are both made from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Number:
    """An int or a float within limits."""

    of: type[int | float]
    least: float
    most: float | None = None

    def __str__(self) -> str:
        limits = f"from {self.least:g}"
        if self.most is not None:
            limits += f" to {self.most:g}"
        return f"{self.of.__name__} ({limits})"


@dataclass(frozen=True)
class ListOf:
    """A list whose entries all have one type."""

    of: type[int | float | str]

    def __str__(self) -> str:
        return f"list of {self.of.__name__}"


Choice = tuple[str, ...]  # one of these words, in any case
Kind = type | Number | ListOf | Choice

COUNT = Number(int, 1)
WHOLE = Number(int, 0)
AMOUNT = Number(float, 0)
SHARE = Number(float, 0, 1)
INTS, FLOATS, STRINGS = ListOf(int), ListOf(float), ListOf(str)


@dataclass(frozen=True)
class Used:
    """The key sets the field `to` of `jaxneox.config.schema.Config`."""

    to: str
    note: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)  # words of the value -> why not


@dataclass(frozen=True)
class Needless:
    """Any value is accepted and changes nothing; when `told`, a value but the default is noted."""

    why: str
    told: bool = False


@dataclass(frozen=True)
class Refused:
    """Only a harmless value passes: the default, null, false, a block that is off, or `fine`."""

    why: str
    fine: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Key:
    kind: Kind
    default: Any
    fate: Used | Needless | Refused


Section = dict[str, Key]


def used(
    kind: Kind, default: Any, to: str, note: str = "", refused: Mapping[str, str] | None = None
) -> Key:
    return Key(kind, default, Used(to, note, refused or {}))


def needless(kind: Kind, default: Any, why: str, *, told: bool = False) -> Key:
    return Key(kind, default, Needless(why, told))


def refused(kind: Kind, default: Any, why: str, *fine: Any) -> Key:
    return Key(kind, default, Refused(why, fine))


def is_off(key: Key, value: Any) -> bool:
    """Whether a refused key's value asks for nothing."""
    assert isinstance(key.fate, Refused)
    if isinstance(value, dict) and value.get("enabled") is False:
        return True
    return value in (key.default, None, "", [], {}, *key.fate.fine)
