"""Keys of NeoX's past in the names that its HEAD knows."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from jaxneox.config import dotted
from jaxneox.config.check import stands_for
from jaxneox.config.fates import Alias
from jaxneox.config.keys.past import REMOVED, RENAMED


def in_present_names(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys as a YAML for NeoX's HEAD has them.

    Renamed keys get their present names, and removed ones, which change nothing here, are left out.
    """
    present = deepcopy(dict(keys))
    for name, key in RENAMED.items():
        value = dotted.get(present, name)
        dotted.remove(present, name)
        if value is None or not isinstance(key.fate, Alias):
            continue
        meant = stands_for(name, value)
        if meant is not None and dotted.get(present, key.fate.of) is None:
            dotted.put(present, key.fate.of, meant)
    for name in REMOVED:
        dotted.remove(present, name)
    return present
