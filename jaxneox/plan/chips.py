"""The rates of one chip of each kind, from its maker's documentation."""

from dataclasses import dataclass

from jaxneox.plan.gpus import GPUS, Gpu

GIB, GB, TERA = 2**30, 10**9, 10**12


@dataclass(frozen=True)
class TorusLinks:
    """How TPUs are joined: each to its neighbours in a torus.

    Attributes:
        link: of one link to a neighbour, bytes/s in each direction.
        axes: of the torus; a chip has two links along each.
    """

    link: float
    axes: int


@dataclass(frozen=True)
class HostLinks:
    """How GPUs are joined: by NVLink within a host, by a network between hosts.

    Attributes:
        nvlink: of one GPU to all others of its host together, bytes/s in each direction.
        network: of one GPU's network adapter, bytes/s in each direction.
        most: GPUs of a host, at most.
    """

    nvlink: float
    network: float
    most: int = 8


@dataclass(frozen=True)
class Chip:
    """One kind of chip.

    Attributes:
        flops: peak of dense bfloat16 products, FLOP/s.
        memory: bytes of main memory that a program can use.
        bandwidth: of main memory, bytes/s.
        links: how chips of this kind are joined, and at what rates.
        source: where the figures are from.
    """

    flops: float
    memory: int
    bandwidth: float
    links: TorusLinks | HostLinks
    source: str


def _of_gpu(gpu: Gpu) -> Chip:
    links = HostLinks(gpu.nvlink * GB, gpu.network * GB)
    return Chip(gpu.tflops * TERA, gpu.memory, gpu.bandwidth, links, gpu.source)


# A documented "bidirectional bandwidth per chip" is that of all links in both directions.
CHIPS = {
    "v5e": Chip(
        197 * TERA, 16 * GB, 819 * GB, TorusLinks(50 * GB, 2), "docs.cloud.google.com/tpu/docs/v5e"
    ),
    "v5p": Chip(
        459 * TERA,
        95 * GIB,
        2765 * GB,
        TorusLinks(100 * GB, 3),
        "docs.cloud.google.com/tpu/docs/v5p",
    ),
    "v6e": Chip(
        918 * TERA,
        32 * GB,
        1600 * GB,
        TorusLinks(100 * GB, 2),
        "docs.cloud.google.com/tpu/docs/v6e",
    ),
} | {kind: _of_gpu(gpu) for kind, gpu in GPUS.items()}
