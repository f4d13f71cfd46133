"""Programs kept between processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import PATIENCE

CODE = """
import jax
from jaxneox.parallel.compilation import use_compilation_cache
use_compilation_cache()
jax.jit(lambda x: x + 1)(1.0)
"""


@pytest.mark.slow
def test_what_compiles_at_once_is_kept_as_well(tmp_path: Path) -> None:
    others = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    env = others | {"JAXNEOX_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", CODE], env=env, check=True, timeout=PATIENCE)
    assert any((tmp_path / "xla").iterdir())
