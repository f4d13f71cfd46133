"""The fields of a JSON object, each checked when it is taken; the rest is unknown."""

import difflib
import json
from typing import Any, NoReturn

from jaxneox.reading import DEEPEST, is_deep
from jaxneox.serve.errors import RefusedRequest


def object_of(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_no_constant)
        deep = is_deep(value)  # before a message that quotes a part would have to walk through it
    except RecursionError:
        deep = True
    except ValueError as error:
        raise RefusedRequest(400, f"the body is not valid JSON: {error}") from error
    if deep:
        raise RefusedRequest(
            400, f"the body nests more than {DEEPEST} lists and objects in each other"
        )
    if not isinstance(value, dict):
        raise RefusedRequest(400, f"the body is {shown(value)}, expected an object")
    return value


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"there is no {word} in JSON")


def shown(value: Any) -> str:
    """Write a value as its sender wrote it, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def check_characters(text: str, name: str) -> None:
    """Refuse text with half of a surrogate pair, which JSON can name and no tokenizer has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RefusedRequest(400, f"{name}: half of a surrogate pair in it", param=name) from error


def wrong(name: str, value: Any, expected: str) -> RefusedRequest:
    return RefusedRequest(400, f"{name}: {shown(value)}, expected {expected}", param=name)


def many(name: str, count: int, most: int) -> RefusedRequest:
    return RefusedRequest(400, f"{name}: {count} of them, expected {most} at most", param=name)


class Fields:
    """The fields of an object, which errors call `what`; null counts as absent."""

    def __init__(self, fields: dict[str, Any], what: str):
        self._what = what
        self._left = {name: value for name, value in fields.items() if value is not None}
        self._known: list[str] = []

    def take(self, name: str) -> Any:
        self._known.append(name)
        return self._left.pop(name, None)

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        value = self.take(name)
        if value is None:
            return default
        if type(value) is not int or not least <= value <= most:
            raise wrong(name, value, f"a whole number from {least} to {most}")
        return value

    def number(self, name: str, default: float, least: float, most: float) -> float:
        value = self.take(name)
        if value is None:
            return default
        if type(value) not in (int, float) or not least <= value <= most:
            raise wrong(name, value, f"a number from {least} to {most}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise wrong(name, value, "true or false")
        return default if value is None else bool(value)

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise wrong(name, value, "a string")
        return value

    def texts(self, name: str, most: int) -> list[str]:
        """Take a string or a list of strings, none of them empty."""
        value = self.take(name)
        listed = [value] if isinstance(value, str) else value if value is not None else []
        if not isinstance(listed, list) or not all(isinstance(x, str) and x for x in listed):
            raise wrong(name, value, "a string that is not empty, or a list of such strings")
        if len(listed) > most:
            raise many(name, len(listed), most)
        return listed

    def tokens(self, name: str, most: int, vocabulary: int) -> list[int]:
        """Take a list of at most so many tokens of a vocabulary."""
        value = self.take(name)
        listed = [] if value is None else value
        if not isinstance(listed, list) or not all(
            type(x) is int and 0 <= x < vocabulary for x in listed
        ):
            raise wrong(name, value, f"a list of tokens, each from 0 to {vocabulary - 1}")
        if len(listed) > most:
            raise many(name, len(listed), most)
        return listed

    def end(self) -> None:
        """Refuse the fields that nobody took."""
        for name in self._left:
            near = difflib.get_close_matches(name, self._known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            message = f"{shown(name)} is not a field of {self._what}{hint}"
            raise RefusedRequest(400, message, param=name.encode(errors="replace").decode())
