"""The mesh: named axes of devices, with explicit types so that shardings are checked.

`dp` splits the batch, `tp` splits heads, inner widths and the vocabulary.
"""

import math
import os

import jax
from jax.sharding import AxisType, Mesh

from jaxneox.config.schema import ModelConfig, ParallelConfig
from jaxneox.errors import UserError

AXES = ("dp", "tp")
Sizes = dict[str, int]


def parse_mesh(text: str) -> Sizes:
    """`dp=2,tp=4` -> {"dp": 2, "tp": 4}; one size may be -1, all that is left."""
    sizes: Sizes = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name == "pp":
            raise UserError(
                f"--mesh {text!r}: pipeline stages are not supported yet; use dp and tp"
            )
        if name not in AXES or name in sizes or not value.removeprefix("-").isdecimal():
            raise UserError(
                f"--mesh {text!r}: {part.strip()!r} is not one of {', '.join(AXES)} given once "
                "with a whole number, as in --mesh dp=2,tp=4"
            )
        sizes[name] = int(value)
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"--mesh {text!r}: a size is a positive number, or -1 for all that is left")
    if list(sizes.values()).count(-1) > 1:
        raise UserError(f"--mesh {text!r}: only one axis can be -1, all that is left")
    return sizes


def asked_sizes(mesh: str | None, yaml: ParallelConfig) -> Sizes:
    """What `--mesh` says, else the YAML's model parallel size with dp for the rest."""
    if mesh:
        return {"dp": 1, "tp": 1} | parse_mesh(mesh)
    if yaml.pp > 1:
        raise UserError(
            f"pipe-parallel-size {yaml.pp}: pipeline stages are not supported yet; "
            f"use --mesh tp={yaml.tp * yaml.pp},dp=-1 or --set pipe-parallel-size=1"
        )
    return {"dp": -1, "tp": yaml.tp}


def prepare_devices(asked: Sizes, processes: int = 1) -> None:
    """Before jax starts: as many virtual CPU devices as the mesh needs of this process, should
    this be a CPU."""
    needed = math.prod(size for size in asked.values() if size > 0)
    if -1 not in asked.values():
        check_divides_over(processes, needed)
    needed //= processes
    if needed > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", needed)


def final_sizes(asked: Sizes, devices: int) -> Sizes:
    """`asked` with its -1 filled in; fewer devices than there are may be used."""
    fixed = math.prod(size for size in asked.values() if size > 0)
    sizes = {name: max(1, devices // fixed) if s == -1 else s for name, s in asked.items()}
    needed = math.prod(sizes.values())
    if needed > devices:
        shape = ",".join(f"{name}={size}" for name, size in sizes.items())
        raise UserError(
            f"the mesh {shape} needs {needed} devices and there are {devices}; "
            "ask for a smaller one with --mesh"
        )
    return sizes


def check_divides(tp: int, cfg: ModelConfig, sequence_parallel: bool) -> None:
    """Raises UserError naming all that `tp` would have to split and does not divide."""
    heads = cfg.attention
    split = {
        "the padded vocabulary": cfg.vocab_size,
        "num-kv-heads" if heads.group > 1 else "num-attention-heads": heads.kv_heads,
        "the MLP's width": cfg.mlp.size,
    } | ({"seq-length, split by sequence-parallel,": cfg.seq_length} if sequence_parallel else {})
    wrong = [f"{name} {size}" for name, size in split.items() if size % tp]
    if wrong:
        nearest = max(n for n in range(1, tp) if not any(size % n for size in split.values()))
        raise UserError(
            f"the mesh's tp={tp} does not divide {' and '.join(wrong)}; "
            f"the nearest smaller that divides all it splits is tp={nearest}"
        )


def make_mesh(sizes: Sizes) -> Mesh:
    """On the first `prod(sizes)` devices, of each process as many. Enter it with `jax.set_mesh`."""
    count = math.prod(sizes.values())
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Explicit,) * len(sizes),
        devices=first_devices(count),
    )


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
    """Raises UserError where a mesh of that many devices is not the same share of each process."""
    if devices % processes:
        raise UserError(
            f"a mesh of {devices} devices does not divide over {processes} processes; expected a "
            f"multiple of {processes}: change --mesh or the number of processes"
        )
