"""The compilers of devices that are not here: what they need before and while jax starts.

libtpu compiles for TPUs, and the plugin of jax for CUDA compiles for NVIDIA's GPUs. Neither needs a
device, and the plugin none of NVIDIA's libraries.
"""

import importlib
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from jaxneox.console.say import tell
from jaxneox.errors import UserError
from jaxneox.plan.gpu_memory import memory_fraction
from jaxneox.plan.topology import Topology

ACCELERATORS = {"v5e": "v5litepod-{}", "v5p": "v5p-{}", "v6e": "v6e-{}"}
"""What the machines are called, by their number of chips; libtpu warns of other names."""

CUDA_PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
NO_DRIVER = "cudart_stub.cc"
"""The plugin's libraries say from here that there is no driver, of which nothing is asked."""


def prepare(topology: Topology) -> None:
    """Prepare the environment before jax starts.

    Raises:
        UserError: the compiler of the topology is not installed, or what JAX is told to take of a
            GPU's memory is no share of it.
    """
    if topology.kind == "cpu":
        _prepare_virtual(topology.count)
        return
    os.environ.update(
        JAX_PLATFORMS="cpu",
        TF_CPP_MIN_LOG_LEVEL="3",
        TPU_SKIP_MDS_QUERY="1",  # jax asks for a TPU's machine wherever libtpu is
    )
    if topology.is_gpu:
        _prepare_cuda()
        return
    _prepare_tpu(topology)
    if has_cuda_plugin():
        with without_word_of_a_driver():
            importlib.import_module("jax")


def _prepare_virtual(count: int) -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    kept = re.sub(r"--xla_force_host_platform_device_count=\d+", "", flags)
    os.environ["XLA_FLAGS"] = kept.strip()  # of a blank alone XLA makes a file's name
    import jax

    jax.config.update("jax_num_cpu_devices", count)
    jax.config.update("jax_platforms", "cpu")


def _prepare_tpu(topology: Topology) -> None:
    """Keep libtpu from looking for a machine around it."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "plans for TPUs need their compiler, which is not installed: pip install "
            "'jaxneox[tpu]', best into an environment of its own, or plan for --topology cpu:8"
        )
    os.environ.update(
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_ACCELERATOR_TYPE=ACCELERATORS[topology.kind].format(topology.count),
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",  # else a second plan at the same time ends
        TPU_STDERR_LOG_LEVEL="3",
        TPU_MIN_LOG_LEVEL="3",
    )


def _prepare_cuda() -> None:
    if not has_cuda_plugin():
        raise UserError(
            "plans for GPUs need jax's plugin for CUDA, which is not installed: pip install "
            "'jaxneox[plan-gpu]', best into an environment of its own (it brings none of NVIDIA's "
            "libraries, and no GPU need be there), or plan for --topology cpu:8"
        )
    memory_fraction()  # of which the plugin says nothing useful if it is wrong
    with without_word_of_a_driver():
        importlib.import_module("jax")  # which loads the plugin's libraries


def has_cuda_plugin() -> bool:
    if importlib.util.find_spec("jax_plugins") is None:
        return False
    return any(importlib.util.find_spec(name) is not None for name in CUDA_PLUGINS)


def described_gpus(name: str, target: str, hosts: int, each: int) -> list:
    """Describe hosts of GPUs as devices for which a program can be compiled.

    Args:
        name: what to call them.
        target: the description of one GPU, see `Gpu.target`.
        hosts: how many there are; each is a process of its own.
        each: GPUs of a host.

    Raises:
        UserError: the plugin cannot make such devices.
    """
    with without_word_of_a_driver():
        from jax.experimental import topologies

        try:
            description = topologies.get_topology_desc(
                platform="cuda",
                topology_name=name,
                target_config=target,
                topology=f"1x{hosts}x{each}",  # slices, hosts, GPUs
            )
        except Exception as error:  # jaxlib's own type, and others beneath it
            line = str(error).splitlines()[0]
            raise UserError(
                f"--topology {name}: jax's plugin for CUDA cannot compile for it ({line}); "
                "expected the plugin of this jax's version: pip install 'jaxneox[plan-gpu]'"
            ) from error
        return list(description.devices)


@contextmanager
def without_word_of_a_driver() -> Iterator[None]:
    """Hold back the plugin's lines that no driver is there, and print all others afterwards.

    Its libraries write them past Python and past their own settings when they are loaded.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines():
                if NO_DRIVER not in line and "before absl::InitializeLog()" not in line:
                    tell(line)
