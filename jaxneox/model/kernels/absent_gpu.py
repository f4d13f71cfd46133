"""The GPU that cuDNN's kernels are compiled for: this process's own, or one that is not here.

JAX asks cuDNN itself for its version, and the first GPU for its compute capability. Where a
program is compiled for a GPU that is not here neither can answer, and JAX has no setting for it:
`described` answers in their place while it lasts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

Numbers = tuple[int, ...]

_described: ContextVar[Numbers | None] = ContextVar("capability of an absent GPU", default=None)


def capability() -> Numbers:
    """Return the compute capability of the GPUs that are compiled for, (0,) without one."""
    if (absent := _described.get()) is not None:
        return absent
    try:
        device = jax.local_devices(backend="gpu")[0]
        return tuple(int(part) for part in device.compute_capability.split("."))
    except (RuntimeError, AttributeError, ValueError):  # none, or not NVIDIA's
        return (0,)


@contextmanager
def described(capability: Numbers, cudnn: Numbers) -> Iterator[None]:
    """Compile, inside, for GPUs that are not here.

    Args:
        capability: their compute capability, major and minor.
        cudnn: the version of cuDNN that they would have: major, minor and patch.
    """
    from jax._src.cudnn import fused_attention_stablehlo as asks

    major, minor, patched = cudnn
    answers = {
        "check_cudnn_version": lambda: 10000 * major + 100 * minor + patched,
        "check_compute_capability": lambda least: capability >= _numbers(least),
        "is_cuda_compute_capability_equal": lambda other: capability == _numbers(other),
    }
    own = {name: getattr(asks, name) for name in answers}
    token = _described.set(capability)
    vars(asks).update(answers)
    try:
        yield
    finally:
        vars(asks).update(own)
        _described.reset(token)


def _numbers(version: str) -> Numbers:
    return tuple(map(int, version.split(".")))
