"""Devices that need not be here: TPU slices by name, or virtual devices of this CPU."""

import importlib.util
import math
import os
import re
from dataclasses import dataclass
from functools import cached_property

from jaxneox.console.hints import command
from jaxneox.errors import UserError
from jaxneox.plan.chips import CHIPS, Chip

KNOWN = (
    "v5e:2x2, v5e:4x4, v5e:8x8, v5e:16x16, v5p:2x2x1, v5p:2x2x2, v5p:4x4x4, v5p:4x4x8, v5p:8x8x8, "
    "v6e:2x2, v6e:4x4, v6e:8x8, v6e:16x16 and others of these kinds, or cpu:8"
)
ACCELERATORS = {"v5e": "v5litepod-{}", "v5p": "v5p-{}", "v6e": "v6e-{}"}
"""What the machines are called, by their number of chips; libtpu warns of other names."""


@dataclass(frozen=True)
class Topology:
    """A slice of chips: `kind` v5p and `shape` (4, 4, 4); or cpu and (8,)."""

    kind: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def chip(self) -> Chip | None:
        """The kind of chip; None for a CPU, of which nothing is known beforehand."""
        return CHIPS.get(self.kind)

    @property
    def wraps(self) -> bool:
        """Whether the links of an axis close to a ring.

        Those of v5p do in whole cubes of 4 x 4 x 4, of the flat kinds along 16 chips, a whole pod.
        """
        if self.kind == "v5p":
            return all(size % 4 == 0 for size in self.shape)
        return all(size == 16 for size in self.shape)

    @cached_property
    def devices(self) -> list:
        """Descriptions of devices, for which a program can be compiled."""
        import jax

        if self.kind == "cpu":
            return jax.devices("cpu")[: self.count]
        from jax.experimental import topologies

        try:
            description = topologies.get_topology_desc(platform="tpu", topology_name=self.name)
        except Exception as error:  # jaxlib's own type, and others beneath it
            line = str(error).splitlines()[0]
            raise UserError(
                f"--topology {self.name}: libtpu knows no such slice ({line}); known: {KNOWN}"
            ) from error
        return list(description.devices)


def parse_topology(text: str) -> Topology:
    """Parse `v5p:4x4x4` or `cpu:8`.

    Raises:
        UserError: the kind or shape is not known.
    """
    match = re.fullmatch(r"([a-z]\w*):([1-9]\d{0,3}(?:x[1-9]\d{0,3})*)", text)
    kind, shape = (match[1], tuple(map(int, match[2].split("x")))) if match else (text, ())
    if kind in ("gpu", "cuda", "rocm") or kind.startswith(("h100", "h200", "a100", "b200")):
        raise UserError(
            f"--topology {text}: XLA compiles for GPUs only where one is; on such a machine "
            f"`{command('train', 'CONFIG.yml', '--dry-run')}` compiles for it. Known here: {KNOWN}"
        )
    if kind == "cpu" and len(shape) == 1 and shape[0] <= 1024:
        return Topology(kind, shape)
    if kind not in CHIPS or len(shape) != CHIPS[kind].axes:
        raise UserError(f"--topology {text!r} is not known; known: {KNOWN}")
    return Topology(kind, shape)


def prepare(topology: Topology) -> None:
    """Prepare the environment before jax starts: libtpu must not look for a machine around it."""
    if topology.kind == "cpu":
        flags = os.environ.get("XLA_FLAGS", "")
        kept = re.sub(r"--xla_force_host_platform_device_count=\d+", "", flags)
        os.environ["XLA_FLAGS"] = kept.strip()  # of a blank alone XLA makes a file's name
        import jax

        jax.config.update("jax_num_cpu_devices", topology.count)
        jax.config.update("jax_platforms", "cpu")
        return
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "plans for TPUs need their compiler, which is not installed: pip install "
            "'jaxneox[tpu]', best into an environment of its own, or plan for --topology cpu:8"
        )
    os.environ.update(
        TPU_SKIP_MDS_QUERY="1",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_ACCELERATOR_TYPE=ACCELERATORS[topology.kind].format(topology.count),
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",  # else a second plan at the same time ends
        TPU_STDERR_LOG_LEVEL="3",
        TPU_MIN_LOG_LEVEL="3",
        TF_CPP_MIN_LOG_LEVEL="3",
        JAX_PLATFORMS="cpu",
    )
