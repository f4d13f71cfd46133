"""Where files are kept that can be made or fetched again."""

import os
import pathlib


def cache_root() -> pathlib.Path:
    """`$JAXNEOX_CACHE`, or `~/.cache/jaxneox`; it need not exist yet."""
    return pathlib.Path(os.environ.get("JAXNEOX_CACHE") or "~/.cache/jaxneox").expanduser()
