"""Eight virtual CPU devices and strict numerics, set once before jax starts; shared fixtures."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# a third less time: XLA's own passes stay, LLVM's are left out, as in JAX's own tests; .ci/run
# repeats a part of the tests with all of them
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

import hypothesis
import jax
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

pytest_plugins = ["tests.golden_only"]

# a busy machine is no fault of an example
hypothesis.settings.register_profile("jaxneox", deadline=None, print_blob=True)
hypothesis.settings.load_profile("jaxneox")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of golden cases and corpora that is not part of the project."""
    path = pathlib.Path(os.environ.get("JAXNEOX_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no golden cases at {path}: set JAXNEOX_SHARED")
    return path
