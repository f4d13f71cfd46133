"""Programs that are compiled once for all processes."""

import os
from pathlib import Path

import jax


def use_compilation_cache() -> None:
    """Compiled programs are kept between runs, in $JAXNEOX_CACHE or ~/.cache/jaxneox, unless JAX
    has been told of another place."""
    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        root = Path(os.environ.get("JAXNEOX_CACHE") or Path.home() / ".cache" / "jaxneox")
        jax.config.update("jax_compilation_cache_dir", str(root / "xla"))
        # also what compiles in less than a second: of a start there are several
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
