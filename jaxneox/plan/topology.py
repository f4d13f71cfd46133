"""Devices that need not be here: TPU slices and hosts of GPUs by name, or virtual CPU devices."""

import math
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

from jaxneox.errors import UserError
from jaxneox.plan.chips import CHIPS, GB, Chip, HostLinks, TorusLinks
from jaxneox.plan.gpu_memory import memory_fraction
from jaxneox.plan.gpus import CUDNN, GPUS

KNOWN = (
    "v5e:2x2, v5e:4x4, v5e:8x8, v5e:16x16, v5p:2x2x1, v5p:2x2x2, v5p:4x4x4, v5p:4x4x8, v5p:8x8x8, "
    "v6e:2x2, v6e:4x4, v6e:8x8, v6e:16x16 and others of these kinds; h100:8, h200:8, a100:8, "
    "b200:8 and several hosts of GPUs, as in h100:8x8; or cpu:8"
)
MOST_HOSTS = 1024


@dataclass(frozen=True)
class Topology:
    """A slice of chips: `kind` v5p and `shape` (4, 4, 4); or cpu and (8,).

    Of GPUs the shape is (hosts, GPUs of each); of one host it may be (GPUs,).

    Attributes:
        kind: of chip.
        shape: how many there are, and how they lie.
        network: bytes/s of a GPU's adapter in each direction, instead of the table's.
    """

    kind: str
    shape: tuple[int, ...]
    network: float | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def chip(self) -> Chip | None:
        """The kind of chip; None for a CPU, of which nothing is known beforehand."""
        chip = CHIPS.get(self.kind)
        if chip is None or self.network is None or not isinstance(chip.links, HostLinks):
            return chip
        return replace(chip, links=replace(chip.links, network=self.network))

    @property
    def wraps(self) -> bool:
        """Whether the links of an axis of a torus close to a ring.

        Those of v5p do in whole cubes of 4 x 4 x 4, of the flat kinds along 16 chips, a whole pod.
        """
        if self.kind == "v5p":
            return all(size % 4 == 0 for size in self.shape)
        return all(size == 16 for size in self.shape)

    @property
    def is_gpu(self) -> bool:
        return self.kind in GPUS

    @property
    def usable(self) -> int:
        """The bytes of a device's memory that a program can use; of a GPU what JAX takes of it."""
        assert self.chip is not None
        return int(self.chip.memory * (memory_fraction() if self.is_gpu else 1))

    @cached_property
    def devices(self) -> list:
        """Descriptions of devices, for which a program can be compiled."""
        import jax

        if self.kind == "cpu":
            return jax.devices("cpu")[: self.count]
        from jax.experimental import topologies

        from jaxneox.plan.plugins import described_gpus

        if self.is_gpu:
            hosts, each = (1, *self.shape)[-2:]
            return described_gpus(self.name, GPUS[self.kind].target(), hosts, each)
        try:
            description = topologies.get_topology_desc(platform="tpu", topology_name=self.name)
        except Exception as error:  # jaxlib's own type, and others beneath it
            line = str(error).splitlines()[0]
            raise UserError(
                f"--topology {self.name}: libtpu knows no such slice ({line}); known: {KNOWN}"
            ) from error
        return list(description.devices)

    def described(self) -> AbstractContextManager[None]:
        """Answer what is asked of devices that are not here while a program is traced for them."""
        if not self.is_gpu:
            return nullcontext()
        from jaxneox.model.kernels.absent_gpu import described

        return described(GPUS[self.kind].capability, CUDNN)


def parse_topology(text: str, network: float | None = None) -> Topology:
    """Parse `v5p:4x4x4`, `h100:8x8` or `cpu:8`.

    Args:
        text: the kind of chip and the shape.
        network: GB/s of a GPU's adapter in each direction, instead of the table's.

    Raises:
        UserError: the kind or shape is not known, or has no network between hosts.
    """
    match = re.fullmatch(r"([a-z]\w*):([1-9]\d{0,3}(?:x[1-9]\d{0,3})*)", text)
    kind, shape = (match[1], tuple(map(int, match[2].split("x")))) if match else (text, ())
    topology = Topology(kind, shape, None if network is None else network * GB)
    links = None if topology.chip is None else topology.chip.links
    if isinstance(links, HostLinks):
        _check_hosts(text, shape, links)
        return topology
    if network is not None:
        raise UserError(
            f"--network: {text} has no network between hosts of GPUs; leave it out, or expected "
            "a topology such as h100:8x8"
        )
    if kind == "cpu" and len(shape) == 1 and shape[0] <= 1024:
        return topology
    if not isinstance(links, TorusLinks) or len(shape) != links.axes:
        raise UserError(f"--topology {text!r} is not known; known: {KNOWN}")
    return topology


def _check_hosts(text: str, shape: tuple[int, ...], links: HostLinks) -> None:
    """Check the shape of hosts with GPUs.

    Raises:
        UserError: it is not GPUs of one host, or hosts x GPUs, within their limits.
    """
    if len(shape) not in (1, 2):
        raise UserError(
            f"--topology {text!r}: expected the GPUs of one host, as in h100:8, or hosts x GPUs of "
            "each, as in h100:4x8"
        )
    if shape[-1] > links.most:
        hosts = f"{shape[0] // links.most}x{links.most}"
        divides = len(shape) == 1 and shape[0] % links.most == 0
        instead = f", as in {text.split(':')[0]}:{hosts}" if divides else ""
        raise UserError(
            f"--topology {text!r}: a host has at most {links.most} GPUs; several hosts are given "
            f"as hosts x GPUs of each{instead}"
        )
    if shape[0] > MOST_HOSTS:
        raise UserError(f"--topology {text!r}: at most {MOST_HOSTS:,} hosts can be planned for")
