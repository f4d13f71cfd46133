"""Joins `jax.distributed`, before anything asks jax for a device, and leaves it at a barrier."""

import os
import sys

import jax

from jaxneox.errors import UserError
from jaxneox.hosts import messages, watch
from jaxneox.hosts.group import Group

# Hosts of a job may come up minutes apart (an image to pull, a node to boot).
ARRIVAL = 300
# jax's own heartbeats are the second line: they end a process by SIGABRT amid a C++ trace. The
# watch acts after 20 s; where it cannot, they still keep the promise of one minute.
HEARTBEAT = 45
# At the end process 0 may draw a picture and others may still wait for a disk.
DEPARTURE = 300
# What jax's own detection of Open MPI asks for; Open MPI 5 has it no more.
OPEN_MPI, ITS_ADDRESS = "OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_hnp_uri"


def join(group: Group) -> None:
    """Wait until all processes are there. Only process 0 has a stdout from then on."""
    if group.coordinator is None and OPEN_MPI in os.environ and ITS_ADDRESS not in os.environ:
        raise UserError(  # jax would not take it for Open MPI, but for the Slurm around it
            f"Open MPI says that this is process {group.index} of {group.count}, and not where "
            "process 0 listens: add --coordinator HOST:PORT, the same for all"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # its SIGTERM handler would stand beside the loop's, which also knows Ctrl-C
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_check_proxy_envs", False)
    _quiet_stdout()
    explicit = group.coordinator is not None
    try:
        jax.distributed.initialize(
            group.coordinator,
            group.count if explicit else None,
            group.index if explicit else None,
            local_device_ids=None if group.local is None else [group.local],
            cluster_detection_method="deactivate" if explicit else None,
            initialization_timeout=ARRIVAL,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=DEPARTURE,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise _failed(group, error) from error
    _check_same(group)
    if not messages.is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for as long as the process lives)


def leave() -> None:
    """Leave all together, so that none takes another's end for a fault."""
    client = messages.client()
    if client is not None:
        watch.mark("leaving", patient=True)
        client.wait_at_barrier("jaxneox/leave", DEPARTURE * 1000)
        watch.stop()
        jax.distributed.shutdown()


def _quiet_stdout() -> None:
    """Send the C side's stdout, on which gloo prints a greeting, nowhere.

    Python's keeps the terminal.
    """
    sys.stdout.flush()
    try:
        ours = os.dup(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError:  # no stdout at all
        return
    sys.stdout = os.fdopen(ours, "w", buffering=1)


def _check_same(group: Group) -> None:
    """Check that jax, which asks the environment for what is not given, found the same."""
    from jax._src.distributed import global_state

    by_jax = (global_state.num_processes, global_state.process_id)
    if group.count is not None and by_jax != (group.count, group.index):
        raise UserError(
            f"this is process {group.index} of {group.count} by its environment, and jax takes it "
            f"for process {by_jax[1]} of {by_jax[0]}: give --coordinator HOST:PORT"
        )


def _failed(group: Group, error: Exception) -> UserError:
    where = group.coordinator or "the address that jax found in the environment"
    of = f"process {group.index} of {group.count}" if group.count else "this process"
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
    return UserError(
        f"{of} could not join the others at {where} within {ARRIVAL} s ({reason}). Expected all "
        "to be started with the same --coordinator and --num-processes, and its port to be open "
        "and free on process 0's host"
    )
