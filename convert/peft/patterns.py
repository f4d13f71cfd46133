"""The keys `rank_pattern` and `alpha_pattern` of adapter_config.json: a number for some modules.

PEFT takes each key for a regular expression that a whole name, or what follows a dot in it, must
match. An expression of a stranger's may take forever, so that only names are read here, in which a
dot stands for any character as it does there.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from jaxneox.errors import UserError

NAME = re.compile(r"\^?(\w|\.|\\\.)+\$?", re.ASCII)
LONGEST = 256  # characters of a key

Value = TypeVar("Value")


def check_keys(where: str, pattern: Mapping[str, Any]) -> None:
    """Refuse keys that are more than names.

    Raises:
        UserError: names the first.
    """
    for key in pattern:
        if len(key) > LONGEST or not NAME.fullmatch(key):
            raise UserError(
                f"{where}: {key!r} is a regular expression; expected the name of a module or its "
                "end: write one entry for each module"
            )


def value_of(pattern: Mapping[str, Value], module: str, default: Value) -> Value:
    """Return the value of the first key that fits a module's name, as PEFT does."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
