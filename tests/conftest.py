"""Eight virtual CPU devices and strict numerics, set once before jax starts; shared fixtures."""

import importlib.metadata
import os
import pathlib
import signal
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Half the time: XLA's own passes stay, but LLVM's are left out, as in JAX's own tests, and so is
# its newer code generator, which is slower to compile. JAXNEOX_TEST_OPTIMIZED=1 brings all of it
# back: .ci/run repeats a part so. Virtual devices wait long for each other, since XLA would end the
# process where one is 40 s late. (Another jaxlib may not know these flags, and end it too.)
os.environ.setdefault(
    "JAX_DISABLE_MOST_OPTIMIZATIONS", "0" if os.environ.get("JAXNEOX_TEST_OPTIMIZED") else "1"
)
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        *(
            ["--xla_cpu_collective_call_terminate_timeout_seconds=1200"]
            + ["--xla_cpu_use_fusion_emitters=false"]
            * (not os.environ.get("JAXNEOX_TEST_OPTIMIZED"))
            if importlib.metadata.version("jaxlib").startswith("0.10.")
            else []
        ),
    ]
).strip()
# threads for all that the eight devices may wait for at one time, see parallel/mesh
os.environ.setdefault("NPROC", "16")
# a wait that is announced is a line more, on a machine that is slow today
os.environ["JAXNEOX_PATIENCE"] = "3600"

# a shell's `&` lets a job ignore Ctrl-C, and so would every program that a test starts and ends
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import jax
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

pytest_plugins = ["tests.fast", "tests.golden_only"]

# a busy machine is no fault of an example
hypothesis.settings.register_profile("jaxneox", deadline=None, print_blob=True)
hypothesis.settings.load_profile("jaxneox")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokenized text, converted checkpoints and compiled programs lie in the tests' own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXNEOX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of golden cases and corpora that is not part of the project."""
    path = pathlib.Path(os.environ.get("JAXNEOX_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no golden cases at {path}: set JAXNEOX_SHARED")
    return path
