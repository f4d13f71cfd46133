"""The training step compiled from shapes alone, and what the compiled program says of itself."""

import math
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from jaxneox.console.say import say
from jaxneox.console.waiting import waiting
from jaxneox.hlo import sent
from jaxneox.objectives import Batch, BatchField
from jaxneox.parallel.mesh import shown_axes
from jaxneox.train.checkpoints.restore import abstract_state
from jaxneox.train.dry_run.report import report
from jaxneox.train.plan import TrainPlan
from jaxneox.train.step.step import build_step

VIRTUAL = (
    "compiled for virtual CPU devices: a GPU or TPU compiler may form other collectives (a "
    "reduce-scatter where the CPU has an all-reduce and a slice), and needs other temporaries"
)


def dry_run(plan: TrainPlan) -> None:
    """Print what is known at once, then what the compiler says, which takes a while."""
    say(report(plan))
    say("\n" + of_the_program(plan))


@dataclass(frozen=True)
class Compiled:
    """The step's program for a mesh, and how many seconds it took to compile."""

    program: jax.stages.Compiled
    mesh: Mesh
    seconds: float

    @property
    def platform(self) -> str:
        return self.mesh.devices.flat[0].platform


def enough_devices(count: int) -> list[jax.Device]:
    """Return this machine's first `count` devices, else virtual ones of the CPU, else none."""
    for devices in (jax.devices(), jax.devices("cpu")):
        if len(devices) >= count:
            return devices[:count]
    return []


def compile_step(plan: TrainPlan, devices: list[jax.Device]) -> Compiled:
    """Compile a training step for these devices. Nothing is allocated."""
    shape = tuple(plan.mesh_sizes.values())
    types = (AxisType.Explicit,) * len(shape)
    mesh = Mesh(np.array(devices).reshape(shape), tuple(plan.mesh_sizes), axis_types=types)
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        step: Any = build_step(plan, mesh)
        program = step.lower(abstract_state(plan, mesh), abstract_batch(plan, mesh)).compile()
    return Compiled(program, mesh, time.perf_counter() - start)


def abstract_batch(plan: TrainPlan, mesh: Mesh) -> Batch:
    """Describe a step's batch as shapes, cut and laid out as by Feed."""
    batch = plan.cfg.batch
    lay = NamedSharding(mesh, plan.rules.activation(None, "batch"))
    cut = (batch.accumulation, batch.global_size // batch.accumulation)

    def described(field: BatchField) -> Any:
        return jax.ShapeDtypeStruct((*cut, *field.shape), jnp.dtype(field.dtype), sharding=lay)

    return {name: described(field) for name, field in plan.objective.fields.items()}


def of_the_program(plan: TrainPlan) -> str:
    """Describe memory and collectives of the compiled step, per device."""
    count = math.prod(plan.sizes.values())
    devices = enough_devices(count)
    if not devices:
        return (
            f"the training step is not compiled: the mesh needs {count} devices, and XLA_FLAGS "
            f"allow {len(jax.devices('cpu'))} virtual ones; unset "
            "xla_force_host_platform_device_count"
        )
    with waiting("compiling the step"):
        compiled = compile_step(plan, devices)
    head = f"the training step, compiled or read from the cache in {compiled.seconds:.1f} s"
    if compiled.platform == "cpu":
        head += f"\n{VIRTUAL}"
    rows = sent.rows(compiled.program.as_text() or "", plan.mesh_sizes)
    table = "collectives per step, payload per device\n" + sent.table(
        sent.together(rows, shown_axes)
    )
    return "\n\n".join([head, memory(compiled), table])


def memory(compiled: Compiled) -> str:
    """Tabulate the compiler's account of one device's bytes while a step runs."""
    stats = compiled.program.memory_analysis()
    if stats is None:
        return "memory per device: this backend's compiler does not say"
    rows = {
        "arguments": (stats.argument_size_in_bytes, "the state and a batch"),
        "outputs": (stats.output_size_in_bytes, "the new state and figures"),
        "aliased": (stats.alias_size_in_bytes, "of the outputs, in the arguments' place"),
        "temporaries": (stats.temp_size_in_bytes, "gradients, activations, gathered weights"),
    }
    peak = sum(size for size, _ in rows.values()) - 2 * stats.alias_size_in_bytes
    rows["together"] = (peak, "arguments + outputs - aliased + temporaries")
    lines = [f"  {name:<12}{size / 2**20:>14,.2f} MiB  {of}" for name, (size, of) in rows.items()]
    return "\n".join(["memory per device, of the compiled step", *lines])
