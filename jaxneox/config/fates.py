"""The one fate of a YAML key: it sets a field, names another key, is needless, or is refused.

`jaxneox.config.keys` is a table of these, one row a key. The fields of a configuration, the
refusals and docs/configuration.md are all made from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Number:
    """The type of a key whose value is an int or a float within limits."""

    of: type[int | float]
    least: float
    most: float | None = None

    def __str__(self) -> str:
        whole = "," if self.of is int else "g"
        limits = f"from {self.least:{whole}}"
        if self.most is not None:
            limits += f" to {self.most:{whole}}"
        return f"{self.of.__name__} ({limits})"


@dataclass(frozen=True)
class ListOf:
    """The type of a key whose value is a list with entries of one type."""

    of: type[int | float | str]

    def __str__(self) -> str:
        return f"list of {self.of.__name__}"


Choice = tuple[str, ...]  # one of these words, in any case
Kind = type | Number | ListOf | Choice

COUNT = Number(int, 1)
WHOLE = Number(int, 0)
LAYERS = Number(int, 1, 10_000)  # all of them are listed where files are read
WIDTH = Number(int, 1, 1 << 22)  # of a matrix: the largest model's is below 1 << 18
LENGTH = Number(int, 1, 1 << 28)  # of a text, or of a vocabulary
AMOUNT = Number(float, 0)
SHARE = Number(float, 0, 1)
INTS, FLOATS, STRINGS = ListOf(int), ListOf(float), ListOf(str)


def same(value: Any) -> Any:
    """Return the key's value, which is the field's value for most keys."""
    return value


def inverted(value: Any) -> bool:
    """Return the opposite, for a field that says the contrary of its key."""
    return not value


def unless_false(value: Any) -> bool:
    """Return whether the value is true or null, for a switch that is on unless it is turned off."""
    return value is not False


def or_none(value: Any) -> Any:
    """Return the value, or None for 0 and null, which both mean that there is none."""
    return value or None


def at_least_1(value: int) -> int:
    """Return the value, or 1 for 0, for sizes of which NeoX calls both "not divided"."""
    return max(1, value)


def entries(value: list[Any] | None) -> tuple[Any, ...]:
    """Return a list as a tuple, which is empty for null."""
    return tuple(value or ())


def in_a_list(value: Any) -> list[Any]:
    """Return the value as the only entry of a list."""
    return [value]


def power_of_2(value: int) -> float:
    """Return 2 to the power of the value."""
    return 2.0**value


@dataclass(frozen=True)
class Used:
    """The key sets the field `to` of `jaxneox.config.schema.Config`.

    `by` turns the key's value into the field's. Where it is None, a function of this package
    derives the field from this key and others.
    """

    to: str
    note: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)  # words of the value -> why not
    by: Callable[[Any], Any] | None = same


@dataclass(frozen=True)
class Alias:
    """The key is another name of the key `of`; where both are given they must agree.

    `by` turns its value into one of the key `of`; None means that nothing is given.
    """

    of: str
    note: str = ""
    by: Callable[[Any], Any] = same


@dataclass(frozen=True)
class Needless:
    """Any value is accepted and changes nothing; with `told`, any but the default is noted."""

    why: str
    told: bool = False


@dataclass(frozen=True)
class Refused:
    """Only harmless values are accepted: the default, null, a block that is off, and `fine`."""

    why: str
    fine: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Key:
    """A row of the table: the kind and the default of a key's value, and the key's fate."""

    kind: Kind
    default: Any
    fate: Used | Alias | Needless | Refused


Section = dict[str, Key]


def used(
    kind: Kind,
    default: Any,
    to: str,
    note: str = "",
    *,
    by: Callable[[Any], Any] = same,
    refused: Mapping[str, str] | None = None,
) -> Key:
    """Make the row of a key that alone sets a field."""
    return Key(kind, default, Used(to, note, refused or {}, by))


def derived(
    kind: Kind, default: Any, to: str, note: str = "", refused: Mapping[str, str] | None = None
) -> Key:
    """Make the row of a key from which a function derives a field."""
    return Key(kind, default, Used(to, note, refused or {}, by=None))


def alias(
    kind: Kind, default: Any, of: str, note: str = "", *, by: Callable[[Any], Any] = same
) -> Key:
    """Make the row of a key that is another name of the key `of`."""
    return Key(kind, default, Alias(of, note, by))


def needless(kind: Kind, default: Any, why: str, *, told: bool = False) -> Key:
    return Key(kind, default, Needless(why, told))


def refused(kind: Kind, default: Any, why: str, *fine: Any) -> Key:
    return Key(kind, default, Refused(why, fine))


def is_off(key: Key, value: Any) -> bool:
    """Tell whether a refused key's value asks for nothing."""
    assert isinstance(key.fate, Refused)
    if isinstance(value, dict) and value.get("enabled") is False:
        return True
    return value in (key.default, None, "", [], {}, *key.fate.fine)
