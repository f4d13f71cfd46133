"""NeoX's keys of a run, some of which are replaced, whatever names they had."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from jaxneox.config import dotted
from jaxneox.config.keys import ALIASES


def replaced(keys: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys with those of `new` in place of their own.

    A key that `new` sets loses its other names, old ones such as `optimizer.params.max_grad_norm`
    and today's such as `clip_grad`, whose values would contradict the new one.

    Args:
        keys: the keys of a run.
        new: the keys to set; a block such as `optimizer` replaces the whole block.
    """
    result = deepcopy(dict(keys) | dict(new))
    for alias, name in ALIASES.items():
        if dotted.get(new, name) is not None:
            dotted.remove(result, alias)
    return result
