"""Check keys against the table: their names, their types, and what is refused."""

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from jaxneox.config.fates import Alias, Kind, ListOf, Needless, Number, Refused, Used, is_off, same
from jaxneox.config.keys import ALIASES, BLOCKS, KEYS
from jaxneox.config.keys.past import REMOVED, RENAMED
from jaxneox.config.other_names import MEANT
from jaxneox.errors import UserError, cut, listed

LEAST, GREATEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # of float32 without its subnormal numbers
LARGEST = 2**31 - 1
MOST_UNKNOWN = 16  # keys that an error names


Part = TypeVar("Part")


class CheckedKeys:
    """YAML keys that have been held against the table.

    `keys["seed"]` is the user's value or, where none is given, the default. Keys of blocks are
    dotted: `keys["fp16.loss_scale"]`. A value that is given by an alias counts for the key for
    which it stands, and null is the same as not given.

    Args:
        given: the merged keys of a user's YAML files.

    Raises:
        UserError: a key is unknown, refused or of another type, or it contradicts its alias.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        refuse_unknown(given)
        self.keys = dict(given)
        self.notes: list[str] = []
        self._given = dict(self._checked(given, ""))
        for alias, name in ALIASES.items():
            self._fold(alias, name)

    def __getitem__(self, name: str) -> Any:
        return self._given.get(name, KEYS[name].default)

    def given(self, name: str) -> bool:
        return name in self._given

    def needed(self, name: str) -> Any:
        if name not in self._given:
            how = f"set it in the YAML or with --set {name}=…{self._of_the_model()}"
            if name == "train_iters" and self.given("train_epochs"):
                how = "train_epochs alone does not say it without the data; set it beside that key"
            raise UserError(f"{name} is missing: {how}")
        return self._given[name]

    def _of_the_model(self) -> str:
        """Say where the keys of the model are that is loaded, if a run of ours has them."""
        lora = self.keys.get("lora")  # to which `load` has moved
        where = self.keys.get("load") or (isinstance(lora, dict) and lora.get("base"))
        file = Path(where) / "config.yml" if isinstance(where, str) and where else None
        if file is None or not file.is_file():
            return ""
        return f"; only weights are loaded: copy the keys of the model from {file}"

    def note(self, line: str) -> None:
        """Add a line for the user to read, once."""
        if line not in self.notes:
            self.notes.append(line)

    def fill(self, part: type[Part], path: str, **derived: Any) -> Part:
        """Build a part of the configuration.

        Args:
            part: a dataclass of `jaxneox.config.schema`.
            path: where it lies in `Config`, such as "model.attention".
            derived: the fields that no single key sets; they count where one does.

        Raises:
            UserError: a key is missing that sets a field which has no default.
        """
        required = {
            field.name
            for field in dataclasses.fields(cast(Any, part))
            if field.default is field.default_factory is dataclasses.MISSING
        }
        fields = {}
        for name, key in KEYS.items():
            if not isinstance(key.fate, Used) or key.fate.by is None:
                continue
            owner, _, field = key.fate.to.rpartition(".")
            if owner == path:
                missing = field in required and key.default is None
                fields[field] = key.fate.by(self.needed(name) if missing else self[name])
        return part(**(fields | derived))

    def _fold(self, alias: str, name: str) -> None:
        if alias not in self._given:
            return
        value = stands_for(alias, self._given[alias])
        if value is None:
            return
        # an alias may have been NeoX's for another type, as a float for a count
        value = typed(alias, value, KEYS[name].kind)
        refuse_unheld(alias, value)
        self._refuse(name, value, called=alias)
        if self._given.setdefault(name, value) != value:
            raise UserError(
                f"{name} is {cut(str(self._given[name]))} but {alias} is {cut(str(value))}: they "
                "are one setting, keep one of the two"
            )

    def _checked(self, keys: Mapping[str, Any], block: str) -> Iterator[tuple[str, Any]]:
        for short, raw in keys.items():
            name = block + short
            if raw is None or (raw == "" and KEYS[name].kind is str):
                continue
            value = typed(name, raw, KEYS[name].kind)
            if isinstance(KEYS[name].fate, Used | Alias):
                refuse_unheld(name, value)
            self._refuse(name, value, called=name)
            yield name, value
            if isinstance(value, dict) and name in BLOCKS:
                yield from self._checked(value, f"{name}.")

    def _refuse(self, name: str, value: Any, called: str) -> None:
        key = KEYS[name]
        match key.fate:
            case Refused(why) if not is_off(key, value):
                raise UserError(f"{called}: {cut(str(value))} is not supported: {why}")
            case Used(refused=refused):
                for word in filter(refused.get, _words(value) if refused else ()):
                    raise UserError(f"{called}: {cut(word)} is not supported: {refused[word]}")
            case Needless(why, told=True) if value not in (key.default, False):
                self.note(f"{called}: {cut(str(value))} changes nothing: {why}")


def stands_for(alias: str, value: Any) -> Any:
    """Return the value that an alias gives to the key for which it stands, or None for no value."""
    fate = KEYS[alias].fate
    assert isinstance(fate, Alias)
    return value if fate.by is same else fate.by(typed(alias, value, KEYS[alias].kind))


def _words(value: Any) -> Iterator[str]:
    """Yield the texts in a value, or in its lists at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _words(entry)


def refuse_unknown(keys: Mapping[str, Any]) -> None:
    """Raise UserError with every unknown name, each with the nearest known one."""
    unknown = list(_unknown(keys, ""))
    if unknown:
        names = listed((f"{name}{_nearest(name)}" for name in unknown[:MOST_UNKNOWN]), MOST_UNKNOWN)
        if len(unknown) > MOST_UNKNOWN:  # the nearest of thousands would take minutes to find
            names += f" and {len(unknown) - MOST_UNKNOWN} more"
        plural = "keys" if len(unknown) > 1 else "key"
        raise UserError(f"unknown {plural}: {names}; docs/configuration.md lists all")


def _unknown(keys: Mapping[str, Any], block: str) -> Iterator[str]:
    for short, value in keys.items():
        name = block + short
        if name not in KEYS:
            yield name
        elif isinstance(value, dict) and name in BLOCKS:
            yield from _unknown(value, f"{name}.")


def _nearest(name: str) -> str:
    block, _, short = name.rpartition(".")
    dead = {*REMOVED, *RENAMED} - ALIASES.keys()
    living = [known for known in KEYS if known not in dead]
    siblings = [known for known in living if known.rpartition(".")[0] == block]
    elsewhere = [known for known in living if known.rpartition(".")[2] == short]
    if short in MEANT and not elsewhere:
        return f" (did you mean {MEANT[short]}?)"
    nearest = elsewhere or difflib.get_close_matches(cut(name), siblings, n=1)
    if not nearest:
        return ""
    meant = ALIASES[nearest[0]] if nearest[0] in RENAMED and nearest[0] in ALIASES else nearest[0]
    return f" (did you mean {meant}?)"


def typed(name: str, value: Any, kind: Kind) -> Any:
    """Return a key's value as the type of its row.

    YAML 1.1 reads 1e-5 as text, which is taken for a number where the key's type is one.

    Raises:
        UserError: the value is of another type.
    """
    if isinstance(kind, Number):
        number = _number(name, value, kind.of, kind)
        if number < kind.least or (kind.most is not None and number > kind.most):
            raise _wrong(name, value, kind)
        return number
    if isinstance(kind, ListOf):
        if not isinstance(value, list | tuple):
            raise _wrong(name, value, kind)
        return [typed(name, entry, kind.of) for entry in value]
    if isinstance(kind, tuple):
        return _choice(name, value, kind)
    if kind in (int, float):
        return _number(name, value, kind, kind)
    if not isinstance(value, kind):
        raise _wrong(name, value, kind)
    return value


def _number(name: str, value: Any, of: type, kind: Kind) -> Any:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise _wrong(name, value, kind) from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(name, value, kind)
    if of is float:
        return float(value)
    if value != int(value):
        raise _wrong(name, value, kind)
    return int(value)


def refuse_unheld(name: str, value: Any) -> None:
    """Raise UserError for a number that arithmetic in float32 or int32 would turn into another."""
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, float) and number and not LEAST <= abs(number) <= GREATEST:
            raise UserError(
                f"{name}: found {number!r}, which float32 does not hold: expected 0, or a number "
                f"from {LEAST:.3g} to {GREATEST:.3g}"
            )
    kind = KEYS[name].kind
    bounded = isinstance(kind, Number) and kind.most is not None
    if type(value) is int and not bounded and abs(value) > LARGEST:
        raise UserError(
            f"{name}: found {value}, which a 32-bit integer does not hold: expected at most "
            f"{LARGEST}"
        )


def _choice(name: str, value: Any, words: tuple[str, ...]) -> str:
    for word in words:
        if isinstance(value, str) and value.lower() == word.lower():
            return word
    nearest = difflib.get_close_matches(cut(str(value)), words, n=1)
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    raise UserError(f"{name}: found {cut(repr(value))}{hint}, expected one of {', '.join(words)}")


def _wrong(name: str, value: Any, kind: Kind) -> UserError:
    expected = kind.__name__ if isinstance(kind, type) else str(kind)
    return UserError(
        f"{name}: found {cut(repr(value))} ({type(value).__name__}), expected {expected}"
    )
