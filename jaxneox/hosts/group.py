"""Which processes make one run, by the flags or by the environment; it does not import jax."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxneox.errors import UserError

AUTO = "auto"
# Launchers that say who a process is, but not where process 0 listens: the variables of its rank
# and of the number of processes, where there is one.
WITHOUT_ADDRESS = (
    ("PMI_RANK", "PMI_SIZE"),  # MPICH and Intel MPI
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),  # MVAPICH
    ("FLUX_TASK_RANK", "FLUX_JOB_SIZE"),
    ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
    ("PMIX_RANK", ""),
    ("PALS_RANKID", ""),
)
TORCH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# torchrun's own store listens at MASTER_PORT; a port so far from it is usually free.
PORT_OFFSET = 10007
BY_FLAGS = "give --coordinator HOST:PORT of process 0, --num-processes N and --process-id I"


@dataclass(frozen=True)
class Group:
    """One process of several. `jax.distributed.initialize` finds out what is None.

    Attributes:
        coordinator: the HOST:PORT at which process 0 listens.
        count: how many processes there are.
        index: the number of this process.
        local: the number of this process among its host's, if each takes one device.
    """

    coordinator: str | None
    count: int | None
    index: int | None
    local: int | None = None

    @property
    def prefix(self) -> str:
        """The beginning of a line on stderr: nothing for process 0, which speaks for the run."""
        return f"process {self.index}: " if self.index else ""


def group_of(
    coordinator: str | None,
    count: int | None,
    index: int | None,
    env: Mapping[str, str] = os.environ,
) -> Group | None:
    """Find out which group this process belongs to; None if it is a run of its own.

    Flags go before the environment and may leave out what it says.

    Raises:
        UserError: the description is incomplete or contradicts itself.
    """
    if coordinator == AUTO:
        if count is not None or index is not None:
            raise UserError("--coordinator auto finds out --num-processes and --process-id itself")
        try:
            detected = _from_environment(env)
        except UserError:  # half of a description, which jax need not ask
            detected = ALONE
        return Group(None, detected.count, detected.index)
    if count == 1 and not index:
        return None
    complete = None not in (coordinator, count, index)
    detected = ALONE if complete else _from_environment(env)
    if coordinator is None and count is None and index is None:
        if detected.count is not None and detected.no_address:
            raise UserError(detected.no_address)
        group = Group(detected.coordinator, detected.count, detected.index, detected.local)
        return group if detected.count else None
    group = Group(
        coordinator or detected.coordinator,
        detected.count if count is None else count,
        detected.index if index is None else index,
        detected.local,
    )
    _check(group)
    return group if group.count != 1 else None


@dataclass(frozen=True)
class Detected:
    """The group as the environment has it; `no_address` is the error if it gives no address."""

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    local: int | None = None
    no_address: str | None = None


ALONE = Detected()


def _from_environment(env: Mapping[str, str]) -> Detected:
    """Detect processes of Open MPI, Slurm, torchrun, DeepSpeed, GKE's TPU pods or other launchers.

    Detect nothing if there is one process: also in a Slurm batch script itself, which is no step.
    The first launcher to say that there are several is believed, and the innermost is asked first:
    mpirun and torchrun are started within Slurm's steps, and never start any. The address is left
    to jax's own detection for Open MPI, Slurm and TPUs.
    """
    if "OMPI_COMM_WORLD_SIZE" in env or "OMPI_COMM_WORLD_RANK" in env:
        return _of(env, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")
    if "TORCHELASTIC_RUN_ID" in env:
        return _torch(env)
    slurm = "SLURM_STEP_NODELIST" in env and "SLURM_PROCID" in env
    if slurm:
        size = "SLURM_STEP_NUM_TASKS" if env.get("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
        detected = _of(env, "SLURM_PROCID", size) if size in env else ALONE
        if detected.count is not None:
            return detected
    if "TPU_WORKER_ID" in env:
        return _tpu(env)
    for rank, of in WITHOUT_ADDRESS:
        # a step of one task may have a rank without a size, as of PMIx
        if (rank in env and (of or not slurm)) or (of and of in env):
            detected = _of(env, rank, of)
            if detected.count is not None:
                return replace(detected, no_address=_no_address(rank, detected))
    return _torch(env)


def _of(env: Mapping[str, str], rank: str, size: str) -> Detected:
    """Read the two numbers; ALONE for one process, UserError for half a description."""
    if size and env.get(size) == "1":
        return ALONE
    if not size or size not in env or rank not in env:
        given, other = (rank, size) if rank in env else (size, rank)
        what = f"{other} is not set" if other else "nothing says of how many"
        raise UserError(
            f"{given} is {env[given]} and {what}: {BY_FLAGS}, or unset it for a run of one process"
        )
    count, index = (_number(env, name) for name in (size, rank))
    if index >= count:
        raise UserError(f"{rank} is {index} and {size} {count}: expected 0 to {count - 1}")
    return Detected(count=count, index=index)


def _number(env: Mapping[str, str], name: str) -> int:
    if not env[name].strip().isdecimal():
        raise UserError(f"{name} is {env[name]!r}, expected a whole number; unset it or mend it")
    return int(env[name])


def _no_address(rank: str, detected: Detected) -> str:
    return (
        f"{rank} says that this is process {detected.index} of {detected.count}, and nothing "
        "says where process 0 listens: add --coordinator HOST:PORT, the same for all; or "
        "--num-processes 1 for a run of its own"
    )


def _torch(env: Mapping[str, str]) -> Detected:
    """Read the variables that torchrun and DeepSpeed's launcher set, and torch's `env://` reads."""
    if not {"RANK", "WORLD_SIZE"} & env.keys():
        return ALONE
    detected = _of(env, "RANK", "WORLD_SIZE")
    if detected.count is None:
        return ALONE
    missing = [name for name in TORCH if not env.get(name)]
    if missing:
        return replace(detected, no_address=_no_address("RANK", detected))
    host, port = env["MASTER_ADDR"], _number(env, "MASTER_PORT")
    host = f"[{host}]" if ":" in host else host
    port = port - PORT_OFFSET if port > 2 * PORT_OFFSET else port + PORT_OFFSET
    beside = env.get("LOCAL_WORLD_SIZE") or env.get("LOCAL_SIZE") or "1"
    local = _number(env, "LOCAL_RANK") if "LOCAL_RANK" in env and beside != "1" else None
    return replace(detected, coordinator=f"{host}:{port}", local=local)


def _tpu(env: Mapping[str, str]) -> Detected:
    workers = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES") or ""
    inside = len(workers.split(","))
    count = inside * int(env.get("MEGASCALE_NUM_SLICES") or 1)
    index = int(env["TPU_WORKER_ID"]) + inside * int(env.get("MEGASCALE_SLICE_ID") or 0)
    return Detected(count=count, index=index) if count > 1 else ALONE


def _check(group: Group) -> None:
    named = {
        "--coordinator": group.coordinator,
        "--num-processes": group.count,
        "--process-id": group.index,
    }
    missing = [flag for flag, value in named.items() if value is None]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing: several processes need --coordinator HOST:PORT of "
            "process 0, --num-processes N and --process-id I from 0 to N-1"
        )
    assert group.coordinator is not None and group.count is not None and group.index is not None
    if not re.fullmatch(r"[^\s:]+:\d+|\[[^\s\]]+\]:\d+", group.coordinator):
        raise UserError(
            f"--coordinator {group.coordinator}: expected HOST:PORT of process 0, as node1:12345"
        )
    if not 0 <= group.index < group.count:
        raise UserError(
            f"--process-id {group.index}: expected 0 to {group.count - 1}, one for each of "
            f"--num-processes {group.count}"
        )
