"""NeoX's YAML keys and what they mean.

`load_yaml` reads files into one dictionary of keys, `Settings` checks the keys and is asked for the
parts of a run, and its `resolve` builds the whole run, a frozen `Config`.
"""

from jaxneox.config.describe import describe, saved_keys
from jaxneox.config.merge import load_yaml
from jaxneox.config.override import apply_set
from jaxneox.config.schema import Config
from jaxneox.config.settings import Settings

__all__ = [
    "Config",
    "Settings",
    "apply_set",
    "describe",
    "load_yaml",
    "saved_keys",
]
