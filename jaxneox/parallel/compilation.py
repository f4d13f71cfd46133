"""The cache of compiled programs, which all processes share."""

import os
from pathlib import Path

import jax


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, in $JAXNEOX_CACHE or ~/.cache/jaxneox.

    A folder that JAX has been told of comes first.
    """
    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        root = Path(os.environ.get("JAXNEOX_CACHE") or Path.home() / ".cache" / "jaxneox")
        jax.config.update("jax_compilation_cache_dir", str(root / "xla"))
        # also what compiles in less than a second: of a start there are several
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
