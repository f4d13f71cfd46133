"""Which processes make one run, by the flags or by the environment; jax is not needed to say it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from jaxneox.errors import UserError

AUTO = "auto"


@dataclass(frozen=True)
class Group:
    """One process of several. What is None is left to `jax.distributed.initialize` to find out.

    `coordinator` is the HOST:PORT at which process 0 listens.
    """

    coordinator: str | None
    count: int | None
    index: int | None

    @property
    def prefix(self) -> str:
        """What a line on stderr begins with: nothing for process 0, who speaks for the run."""
        return f"process {self.index}: " if self.index else ""


def group_of(
    coordinator: str | None,
    count: int | None,
    index: int | None,
    env: Mapping[str, str] = os.environ,
) -> Group | None:
    """None for a process of its own.

    Flags go before the environment and may leave out what it says. Raises UserError for half a
    description.
    """
    there_count, there_index = from_environment(env)
    if coordinator is None and count is None and index is None:
        return Group(None, there_count, there_index) if there_count else None
    if coordinator == AUTO:
        if count is not None or index is not None:
            raise UserError("--coordinator auto finds out --num-processes and --process-id itself")
        return Group(None, there_count, there_index)
    group = Group(
        coordinator,
        there_count if count is None else count,
        there_index if index is None else index,
    )
    _check(group)
    return group if group.count != 1 else None


def from_environment(env: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Number and index of the processes that Slurm, Open MPI or GKE's TPU pods have started.

    (None, None) where there is one, or none of them: also in a Slurm batch script itself, which is
    no step. The address is left to jax's own detection of the same three.
    """
    if "SLURM_STEP_NODELIST" in env and "SLURM_PROCID" in env:
        count = int(env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS") or 1)
        index = int(env["SLURM_PROCID"])
    elif "OMPI_COMM_WORLD_SIZE" in env:
        count, index = int(env["OMPI_COMM_WORLD_SIZE"]), int(env["OMPI_COMM_WORLD_RANK"])
    elif "TPU_WORKER_ID" in env:
        workers = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES") or ""
        inside = len(workers.split(","))
        count = inside * int(env.get("MEGASCALE_NUM_SLICES") or 1)
        index = int(env["TPU_WORKER_ID"]) + inside * int(env.get("MEGASCALE_SLICE_ID") or 0)
    else:
        return None, None
    return (count, index) if count > 1 else (None, None)


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
