"""Put the values of `--set key=value` over those of the YAML; keys inside blocks have dots."""

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from jaxneox.config import dotted
from jaxneox.config.check import refuse_unknown, stands_for
from jaxneox.config.data import PAIRED_LISTS, SINGLE_LISTS
from jaxneox.config.keys import ALIASES
from jaxneox.config.merge import parse_value
from jaxneox.config.strict_yaml import spelled
from jaxneox.errors import UserError

log = logging.getLogger(__name__)

DATA_PATHS = (
    "data_path",
    *(name.format(split) for split in ("train", "valid", "test")
      for name in ("{}_data_weights", *SINGLE_LISTS, *PAIRED_LISTS)),
)  # fmt: skip
"""One dataset that is split, or a list for each split: a run has one of the two."""


def apply_set(keys: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return a copy of the keys with each assignment put in.

    Args:
        keys: the YAML's. A setting with several names gets the new value whichever of them it has.
        assignments: each `key=value` or `block.key=value`, with a YAML value; null unsets a key.

    Raises:
        UserError: an assignment has another form, or its key is unknown.
    """
    values = []
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--set {assignment}: expected key=value, as in --set lr=1e-3")
        values.append((spelled(name), parse_value(text)))
    return override(keys, values)


def override(keys: Mapping[str, Any], values: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a copy of the keys with these values put in, one after the other.

    Args:
        keys: the YAML's. A setting with several names gets the new value whichever of them it has.
        values: names, those inside blocks with dots, and what YAML has; None unsets a key.

    Raises:
        UserError: a key is unknown.
    """
    result = deepcopy(dict(keys))
    for name, value in values:
        refuse_unknown(_nested(name, value))
        setting = ALIASES.get(name, name)
        if setting != name and value is not None:
            value = stands_for(name, value)
            if value is None:  # as rms_norm: false, which chooses no norm
                continue
        for alias in _aliases(setting):
            dotted.remove(result, alias)
        dotted.put(result, setting, value)
    _take_one_kind_of_data(result, {ALIASES.get(name, name) for name, _ in values})
    return result


def _aliases(name: str) -> list[str]:
    return [alias for alias, of in ALIASES.items() if of == name]


def _take_one_kind_of_data(keys: dict[str, Any], given: set[str]) -> None:
    """Let data that is set take the place of the YAML's, also where that names it by other keys."""
    for ours, others in ((DATA_PATHS[:1], DATA_PATHS[1:]), (DATA_PATHS[1:], DATA_PATHS[:1])):
        named = [name for other in others for name in (other, *_aliases(other))]
        replaced = [name for name in named if keys.get(name) is not None]
        chosen = [name for name in ours if name in given and keys.get(name) is not None]
        if chosen and replaced and not given & set(others):
            log.warning("--set %s takes the place of %s", chosen[0], ", ".join(replaced))
            for name in replaced:
                del keys[name]


def _nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return dict(value)
