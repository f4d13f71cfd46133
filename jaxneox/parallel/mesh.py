"""The mesh: named axes of devices, with explicit types so that shardings are checked.

`pp` splits the layers into stages, `dp` the batch, `cp` the length of the sequence, and `tp` heads,
inner widths and the vocabulary. Every mesh has these four: an axis that splits nothing has size 1.
`ep` splits the batch too, and the experts of a mixture; a mesh has it only where it splits them.
Neighbours along `tp`, the last, are neighbouring devices, since they talk most; those along `pp`
are the furthest apart.
"""

import importlib.metadata
import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh

from jaxneox.config.schema import ParallelConfig
from jaxneox.errors import UserError

EXPERTS = "ep"
AXES = ("pp", "dp", EXPERTS, "cp", "tp")
MOST_DEVICES = 1 << 20
MOST_VIRTUAL = 1024  # devices of a CPU: XLA takes 0.3 GB for them, and four times as many 8 s
INNER = "dp_inner"
"""The second of the two axes of which dp is made on some meshes; users see dp alone."""
OPTIONAL = (INNER, EXPERTS)
"""The axes that a mesh has only where they split something."""
Sizes = dict[str, int]


def parse_mesh(text: str) -> Sizes:
    """Parse `dp=2,tp=4` to {"dp": 2, "tp": 4}.

    One size may be -1 and takes the remaining devices.
    """
    sizes: Sizes = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        number = value.removeprefix("-")
        if name not in AXES or name in sizes or not (number.isdecimal() and len(number) < 10):
            raise UserError(
                f"--mesh {text!r}: {part.strip()!r} is not one of {', '.join(AXES)} given once "
                "with a whole number, as in --mesh dp=2,tp=4"
            )
        sizes[name] = int(value)
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"--mesh {text!r}: a size is a positive number, or -1 for all that is left")
    if math.prod(size for size in sizes.values() if size > 0) > MOST_DEVICES:
        raise UserError(f"--mesh {text!r}: at most {MOST_DEVICES:,} devices can be asked for")
    if list(sizes.values()).count(-1) > 1:
        raise UserError(f"--mesh {text!r}: only one axis can be -1, all that is left")
    return sizes


def asked_sizes(mesh: str | None, yaml: ParallelConfig) -> Sizes:
    """Return the sizes that `--mesh` gives, else those of the YAML with dp for the rest."""
    if mesh:
        return whole(parse_mesh(mesh))
    return whole({"pp": yaml.pp, "dp": -1, "cp": yaml.cp, "tp": yaml.tp})


def whole(sizes: Sizes) -> Sizes:
    """Return all axes in their order, with size 1 for those that are not given."""
    axes = [name for axis in AXES for name in ((axis, INNER) if axis == "dp" else (axis,))]
    return {
        axis: sizes.get(axis, 1) for axis in axes if axis not in OPTIONAL or sizes.get(axis, 1) != 1
    }


def as_asked(sizes: Sizes) -> Sizes:
    """Return the sizes as users know them, with one dp."""
    inner = sizes.get(INNER, 1)
    return {
        axis: n * inner if axis == "dp" else n for axis, n in whole(sizes).items() if axis != INNER
    }


def shown(axes: Sequence[str]) -> tuple[str, ...]:
    """Name mesh axes as users know them, each once."""
    return tuple(dict.fromkeys("dp" if axis == INNER else axis for axis in axes))


def shown_axes(axes: str) -> str:
    """Name mesh axes in one text, as in "dp+tp", as users know them."""
    return "+".join(shown(axes.split("+")))


def on_torus(sizes: Sizes, devices: Sequence[Any]) -> Sizes:
    """Make two axes of dp where its devices lie along three axes of a torus.

    XLA for TPUs gathers along one or two axes of the torus, and in place of a gather along three it
    sums arrays of zeros, which sends twice as much. So the second axis is what remains of dp when
    the two longest axes of the torus are filled.

    Args:
        sizes: the mesh's.
        devices: those that it is made of; others than TPUs have no place in a torus.
    """
    places = [getattr(device, "coords", None) for device in devices]
    if None in places or math.prod(sizes.values()) != len(devices):
        return sizes
    spans = sorted(len(set(along)) for along in zip(*places, strict=True))
    plane = math.prod(spans[1:])
    if len(spans) < 3 or math.prod(spans) != len(devices) or sizes["dp"] % plane:
        return sizes
    return whole(sizes | {"dp": plane, INNER: sizes["dp"] // plane})


def show(sizes: Sizes) -> str:
    """Write the axes that split something, `pp=2, dp=4`; `dp=1` if none does."""
    return ", ".join(f"{axis}={n}" for axis, n in sizes.items() if n > 1) or "dp=1"


def prepare_devices(asked: Sizes, processes: int = 1) -> None:
    """Make as many virtual CPU devices as the mesh needs of this process, before jax starts.

    They are there only if this machine's devices are a CPU's.
    """
    needed = math.prod(size for size in asked.values() if size > 0)
    if -1 not in asked.values():
        check_divides_over(processes, needed)
    needed //= processes
    if needed > MOST_VIRTUAL:
        raise UserError(
            f"the mesh {show(asked)} needs {needed:,} devices of one process, which makes at most "
            f"{MOST_VIRTUAL:,} virtual ones; ask for a smaller one with --mesh"
        )
    if needed > 1:
        wait_for_virtual_devices()
        give_threads(needed)
    if needed > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", needed)


def give_threads(devices: int) -> None:
    """Give XLA two threads for each virtual device, before jax starts.

    XLA's pool has as many threads as the machine has cores. Where a step has collectives that do
    not depend on each other, as those of a model and of its reference, each of a few threads may
    wait in one of them for a device that waits for a thread.
    """
    cores = os.cpu_count() or 1
    os.environ.setdefault("NPROC", str(max(cores, 2 * devices)))


def wait_for_virtual_devices() -> None:
    """Let virtual devices wait long for each other, before jax starts: they share a few cores.

    XLA ends the process with a C++ trace where one of them is 40 s late, as on a busy machine.
    """
    flag = "--xla_cpu_collective_call_terminate_timeout_seconds"
    known = importlib.metadata.version("jaxlib").startswith("0.10.")  # else it might end here
    if known and flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}=1200".strip()


def final_sizes(asked: Sizes, devices: int) -> Sizes:
    """Fill in the -1 of `asked`; fewer devices than there are may be used."""
    fixed = math.prod(size for size in asked.values() if size > 0)
    sizes = {name: max(1, devices // fixed) if s == -1 else s for name, s in asked.items()}
    needed = math.prod(sizes.values())
    if needed > devices:
        raise UserError(
            f"the mesh {show(sizes)} needs {needed} devices and there are {devices}; "
            "ask for a smaller one with --mesh"
        )
    return sizes


def replicas(sizes: Sizes) -> int:
    """Return among how many replicas of the dense layers the rows of a batch are divided."""
    return as_asked(sizes)["dp"] * sizes.get(EXPERTS, 1)


def no_mesh() -> AbstractContextManager[Any]:
    """Put aside a mesh that is set: inside, jax's functions take arrays of whatever devices."""
    return jax.set_mesh(Mesh(np.empty((), dtype=object), ()))


def make_mesh(sizes: Sizes, devices: Sequence[Any] | None = None) -> Mesh:
    """Make a mesh, to be entered with `jax.set_mesh`.

    Args:
        sizes: devices by axis.
        devices: the devices; the first `prod(sizes)` unless given, as many of each process.
    """
    sizes = whole(sizes)
    shape = tuple(sizes.values())
    placed = create_device_mesh(
        shape,
        devices if devices is not None else first_devices(math.prod(shape)),
        allow_split_physical_axes=True,  # tp=8 of a 4 x 4 x 4 torus takes one axis and half of one
    )
    return Mesh(placed, tuple(sizes), axis_types=(AxisType.Explicit,) * len(sizes))


def first_devices(count: int) -> list[jax.Device]:
    processes = jax.process_count()
    check_divides_over(processes, count)
    taken: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        own = taken.setdefault(device.process_index, [])
        if len(own) < count // processes:
            own.append(device)
    return [device for index in sorted(taken) for device in taken[index]]


def check_divides_over(processes: int, devices: int) -> None:
    """Check that a mesh of that many devices takes the same share of each process.

    Raises:
        UserError: it does not.
    """
    if devices % processes:
        raise UserError(
            f"a mesh of {devices} devices does not divide over {processes} processes; expected a "
            f"multiple of {processes}: change --mesh or the number of processes"
        )
