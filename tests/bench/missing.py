"""What a machine lacks for the comparison, found out before any work."""

from collections.abc import Iterable
from importlib.util import find_spec

from tests.bench.kinds import Kind


def missing(kinds: Iterable[Kind], *, gpu: bool) -> str | None:
    """One line: what is not there, what was expected and what to do; None where all is there."""
    needed = sorted({name for kind in kinds for name in kind.needs})
    for name in needed:
        if find_spec(name) is None:
            return (
                f"{name} is not installed, beside which jaxneox is measured: pip install "
                "'.[torch]', or --only data,overhead"
            )
    return _without_gpu(needed) if gpu else None


def _without_gpu(needed: Iterable[str]) -> str | None:
    do = "install that, or leave --gpu out"
    if not _jax_sees_one():
        return f"--gpu, but jax sees no GPU; expected one of NVIDIA's and jax[cuda12]: {do}"
    if "torch" in needed:
        import torch

        if not torch.cuda.is_available():
            return f"--gpu, but torch {torch.__version__} sees none; expected a CUDA build: {do}"
    return None


def _jax_sees_one() -> bool:
    import jax

    try:
        return jax.default_backend() == "gpu"
    except (RuntimeError, AssertionError):  # JAX_PLATFORMS names what is not there
        return False
