"""What of a GPU's memory is not the program's: JAX's share, libraries' workspaces, NCCL's buffers.

A compiler without NVIDIA's libraries cannot ask them what they take, and what lies outside of JAX's
own allocator is in no program. These are estimates by the libraries' documented settings.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from jaxneox.errors import UserError
from jaxneox.hlo.library_calls import target_of
from jaxneox.hlo.sent import Row
from jaxneox.hlo.text import arrays, elements, parse

FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
MIB = 2**20
CUBLAS_WORKSPACE = {True: 32 * MIB, False: 4 * MIB}
"""By whether a GPU is Hopper or later: docs.nvidia.com/cuda/cublas, `cublasSetWorkspace`."""

NCCL_BUFFER, NCCL_CHANNELS = 4 * MIB, 32
"""Of one connection, and the channels at most; each has one buffer in and one out.

Source: docs.nvidia.com/deeplearning/nccl, `NCCL_BUFFSIZE` and `NCCL_MAX_CTAS`.
"""


@dataclass(frozen=True)
class GpuMemory:
    """Bytes of one GPU besides those that the compiler counts.

    Attributes:
        taken: what JAX takes beforehand, and with which a program has to make do.
        workspace: of that, what cuDNN's and cuBLAS's calls take while they run.
        communicators: groups of devices for which NCCL has buffers of its own.
        nccl: what these take at most, outside of what JAX has taken.
    """

    taken: int
    workspace: int
    communicators: int
    nccl: int


def memory_fraction() -> float:
    """Return the share of a GPU's memory that JAX takes: $XLA_PYTHON_CLIENT_MEM_FRACTION or 0.75.

    Source: docs.jax.dev/en/latest/gpu_memory_allocation.html.

    Raises:
        UserError: it is not a number above 0 and up to 1.
    """
    text = os.environ.get(FRACTION, "0.75")
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise UserError(f"{FRACTION}={text}: expected a share of the memory, such as 0.9")
    return share


def gpu_memory(
    text: str, sent: Sequence[Row], memory: int, capability: tuple[int, int]
) -> GpuMemory:
    """Estimate what is taken besides the program's own buffers.

    Args:
        text: the compiled program.
        sent: what it sends.
        memory: bytes of a GPU.
        capability: its compute capability.
    """
    communicators = len({row.axes for row in sent})
    return GpuMemory(
        taken=int(memory_fraction() * memory),
        workspace=attention_workspace(text) + CUBLAS_WORKSPACE[capability >= (9, 0)],
        communicators=communicators,
        nccl=communicators * 2 * NCCL_CHANNELS * NCCL_BUFFER,
    )


def attention_workspace(text: str) -> int:
    """Count the bytes that the largest backward call of cuDNN's attention takes beside its results.

    It adds up the gradients of queries in float32; the calls run one after the other.

    Source: github.com/NVIDIA/cudnn-frontend, node/scaled_dot_product_flash_attention.h.
    """
    calls = (one for body in parse(text).computations.values() for one in body)
    backward = (one for one in calls if "fmha" in (name := target_of(one)) and "Backward" in name)
    sizes = (4 * math.prod(arrays(elements(one.shape)[0])[0][1]) for one in backward)
    return max(sizes, default=0)
