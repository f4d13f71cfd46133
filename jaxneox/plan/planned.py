"""A run's step compiled for a topology, and all that is known of it."""

from dataclasses import dataclass
from functools import cached_property

import jax

from jaxneox.console.waiting import waiting
from jaxneox.errors import UserError
from jaxneox.hlo import sent
from jaxneox.hlo.collectives import Collective
from jaxneox.hlo.overlap import Sending, sendings
from jaxneox.hlo.work import Work, work
from jaxneox.parallel.mesh import make_mesh
from jaxneox.plan.gpu_memory import GpuMemory, gpu_memory
from jaxneox.plan.gpus import GPUS
from jaxneox.plan.times import Network, Times, links_of, times
from jaxneox.plan.topology import Topology
from jaxneox.train.dry_run.memory import Memory, memory_of
from jaxneox.train.dry_run.program import Compiled, compile_step
from jaxneox.train.plan import TrainPlan
from jaxneox.train.step.flops import flops_per_token


@dataclass(frozen=True)
class Planned:
    """A compiled step. Sizes are in bytes and work in FLOPs, of one device and one step."""

    plan: TrainPlan
    topology: Topology
    compiled: Compiled
    memory: Memory

    @cached_property
    def total(self) -> int:
        """The bytes that the compiler holds against the device's memory.

        They are arguments, results that do not overwrite them, and temporaries. A TPU's compiler
        counts memory that temporaries share with arguments in both, and refuses a program by its
        peak (seen with `--xla_tpu_max_hbm_size_mib` set below and above it).
        """
        stats = self.compiled.program.memory_analysis()
        if stats is None:
            return self.memory.known
        if self.compiled.platform == "tpu":
            return stats.peak_memory_in_bytes
        return self._given + stats.temp_size_in_bytes

    @property
    def temporaries(self) -> int:
        """All that the compiler needs besides the state and a batch."""
        return self.total - self._given

    @cached_property
    def _given(self) -> int:
        stats = self.compiled.program.memory_analysis()
        if stats is None:
            return self.memory.parameters + self.memory.optimizer + self.memory.batch
        own = stats.output_size_in_bytes - stats.alias_size_in_bytes
        return stats.argument_size_in_bytes + own

    @property
    def parts(self) -> dict[str, int]:
        """What is `needed`, by kind.

        What the compiler's temporaries hold besides gradients and what is kept is one part; if it
        shares memory with these, they are that much less.
        """
        known = self.memory
        other = self.temporaries - known.gradients - known.kept
        return {
            "parameters": known.parameters,
            "optimizer": known.optimizer,
            "batch": known.batch,
            "gradients": known.gradients,
            "activations": max(0, known.kept + min(0, other)),
            "temporaries": max(0, other),
        } | ({"workspace": self.gpu.workspace} if self.gpu else {})

    @cached_property
    def gpu(self) -> GpuMemory | None:
        """What of a GPU's memory is not the program's; None for other devices."""
        if not self.topology.is_gpu:
            return None
        gpu = GPUS[self.topology.kind]
        return gpu_memory(self.text, self.sent, gpu.memory, gpu.capability)

    @property
    def needed(self) -> int:
        """The `total` with the workspaces of libraries that a GPU's compiler does not know."""
        return self.total + (self.gpu.workspace if self.gpu else 0)

    @property
    def fits(self) -> bool | None:
        """Whether a device has room for all that the program needs; None if its size is unknown."""
        return None if self.topology.chip is None else self.needed <= self.topology.usable

    @cached_property
    def text(self) -> str:
        return self.compiled.program.as_text() or ""

    @property
    def depth(self) -> int:
        """How many layers a device goes through in one loop."""
        cfg = self.plan.cfg
        return cfg.model.num_layers // (self.plan.sizes["pp"] * cfg.parallel.chunks)

    @cached_property
    def sent(self) -> list[sent.Row]:
        return sent.rows(self.text, self.plan.mesh_sizes, self.depth)

    @cached_property
    def work(self) -> Work:
        return work(self.text)

    @property
    def tokens(self) -> int:
        """The tokens of a step, on all devices together."""
        return self.plan.cfg.batch.global_size * self.plan.cfg.model.seq_length

    @property
    def model_flops(self) -> float:
        """The FLOPs that a step of the model needs of one device, with nothing computed twice."""
        each = flops_per_token(self.plan.model.shapes, self.plan.cfg.model, self.plan.trained)
        return each * self.tokens / self.topology.count

    @cached_property
    def links(self) -> Network:
        return links_of(self.compiled.mesh, self.topology)

    @cached_property
    def times(self) -> Times | None:
        if self.topology.chip is None:
            return None
        exposed = sum(one.exposed * one.collective.count for one in self.sendings)
        return times(self.work, self.sent, self.links, exposed)

    @cached_property
    def sendings(self) -> list[Sending]:
        """The collectives in the program's order, and what is computed meanwhile."""
        return sendings(self.text, self._through, self._computes)

    def axes(self, one: Collective) -> str:
        sizes = tuple(self.plan.mesh_sizes.items())
        return sent.axes_of(one.groups, sizes, one.kind == "collective-permute")

    def _through(self, one: Collective) -> tuple[str, float] | None:
        axes = self.axes(one)
        row = sent.row_of(one, axes)
        return (self.links.level(row), self.links.seconds(row)) if axes else None

    def _computes(self, done: Work) -> float:
        chip = self.topology.chip
        assert chip is not None
        return max(done.flops / chip.flops, done.bytes / chip.bandwidth)

    def mfu(self, seconds: float) -> float:
        chip = self.topology.chip
        assert chip is not None
        return self.model_flops / seconds / chip.flops

    def days(self, seconds: float) -> float:
        return seconds * self.plan.cfg.train.train_iters / 86400


class TooLarge(UserError):
    """The compiler found no way to fit the program into the chip's memory."""


def compile_for(plan: TrainPlan, topology: Topology) -> Planned:
    """Compile a run's step for a topology; a large model takes a minute or two.

    Raises:
        TooLarge: it does not fit into the chip's memory.
        UserError: moments wait in the memory of a GPU's host, of which JAX knows nothing.
    """
    if topology.is_gpu and plan.cfg.parallel.offload_optimizer:
        raise UserError(
            "zero_optimization.offload_optimizer: JAX knows no host's memory beside a GPU that is "
            "not there, and the plan would be wrong: plan without it, and take off what the row "
            "optimizer says"
        )
    mesh = make_mesh(plan.mesh_sizes, topology.devices)
    with topology.described():
        known = memory_of(plan, mesh)
    try:
        with waiting(f"compiling the step for {topology.name}"), topology.described():
            compiled = compile_step(plan, list(mesh.devices.flat))
    except jax.errors.JaxRuntimeError as error:
        line = str(error).splitlines()[0]
        if topology.is_gpu and line.startswith("INTERNAL"):
            raise UserError(
                f"XLA has no kernel for a product of this step on {topology.name} without a GPU "
                f"to try several on ({line.split(', metadata')[0]}); sizes that are multiples of "
                "64 on a device have one: another mesh or micro-batch may do"
            ) from error
        if "RESOURCE_EXHAUSTED" not in line:
            raise
        if "vmem" in line.lower():
            raise TooLarge(
                f"does not compile for {topology.name}: a kernel that XLA made of this step needs "
                f"more than the chip's vector memory ({line.split(': ', 1)[-1].rstrip('.:')}); "
                "another mesh or a smaller micro-batch may do"
            ) from error
        raise TooLarge(
            f"does not fit on {topology.name}: {line.split(': ', 1)[-1].rstrip('.')}; state, "
            f"gradients and what is kept take {known.known / 2**30:,.1f} GiB of a device. More "
            "devices, ZeRO 3, remat_policy=full or a smaller micro-batch take less; --search "
            "looks for them"
        ) from error
    return Planned(plan, topology, compiled, known)
