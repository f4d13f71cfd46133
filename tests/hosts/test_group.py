"""Who is one of several processes, and who is alone."""

import pytest

from jaxneox.errors import UserError
from jaxneox.hosts import join
from jaxneox.hosts.group import Group, group_of

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[3-4]",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}
DEEPSPEED = {k: v for k, v in TORCHRUN.items() if k not in ("TORCHELASTIC_RUN_ID",)}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "4"}
TPU = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "2"}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        (SLURM, Group(None, 2, 1)),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}, None),  # the batch script
        (MPI, Group(None, 4, 3)),
        (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (SLURM | MPI, Group(None, 4, 3)),  # mpirun within a step, by whose daemon it was started
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"} | MPI, Group(None, 4, 3)),
        (TORCHRUN, Group("node1:19493", 8, 5, 1)),
        (SLURM | TORCHRUN, Group("node1:19493", 8, 5, 1)),
        (DEEPSPEED, Group("node1:19493", 8, 5, 1)),
        (SLURM | DEEPSPEED, Group(None, 2, 1)),  # as scripts export them to steps
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "1"}, Group("node1:19493", 8, 5)),
        (TORCHRUN | {"MASTER_ADDR": "::1", "MASTER_PORT": "99"}, Group("[::1]:10106", 8, 5, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"WORLD_SIZE": "1"}, None),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "PMIX_RANK": "0"}, None),
        (TPU | {"MEGASCALE_SLICE_ID": "1"}, Group(None, 4, 3)),
        ({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ],
)
def test_the_environment(env: dict[str, str], expected: Group | None) -> None:
    assert group_of(None, None, None, env) == expected


@pytest.mark.parametrize("env", [SLURM, MPI])
def test_jax_finds_the_same_and_an_address(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jax._src.clusters import ClusterEnv

    for name, value in env.items():
        monkeypatch.setenv(name, value)
    address, count, index, _ = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, 1
    )
    group = group_of(None, None, None, env)
    assert group is not None and (count, index) == (group.count, group.index)
    assert address is not None and address.split(":")[0] in ("node3", "10.96.0.1")


def test_flags_go_before_the_environment() -> None:
    assert group_of("a:1", 2, 0, SLURM) == Group("a:1", 2, 0)
    assert group_of("a:1", None, None, MPI) == Group("a:1", 4, 3)
    assert group_of("[::1]:12", 2, 1, {}) == Group("[::1]:12", 2, 1)
    assert group_of("auto", None, None, {}) == Group(None, None, None)
    assert group_of("a:1", 1, 0, {}) is None
    assert group_of("a:1", 2, 0, {"RANK": "7"}) == Group("a:1", 2, 0)
    assert group_of("a:1", None, None, MPICH) == Group("a:1", 4, 1)
    assert group_of("a:1", None, None, TORCHRUN) == Group("a:1", 8, 5, 1)
    assert group_of(None, 1, None, MPICH) is None


def test_the_environment_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert group_of(None, None, None) is None
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert group_of(None, None, None) == Group("node1:19493", 8, 5, 1)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("a:1", 2, None), "--process-id missing"),
        ((None, 2, 1), "--coordinator missing"),
        (("a", 2, 1), "expected HOST:PORT"),
        (("a:1", 2, 2), "expected 0 to 1"),
        (("auto", 2, None), "finds out"),
    ],
)
def test_half_a_description_is_refused(
    flags: tuple[str | None, int, int | None], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        group_of(*flags, {})


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (MPICH, "PMI_RANK says that this is process 1 of 4, .* add --coordinator HOST:PORT"),
        ({"PMI_RANK": "1"}, "PMI_RANK is 1 and PMI_SIZE is not set"),
        ({"PMIX_RANK": "0"}, "PMIX_RANK is 0 and nothing says of how many: .* --num-processes N"),
        ({"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "2"}, "process 0 of 2, .* add --coo"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK says that this is process 0 of 2"),
        ({"RANK": "1"}, "RANK is 1 and WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE 2: expected 0 to 1"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one', expected a whole number"),
        ({"OMPI_COMM_WORLD_RANK": "1"}, "OMPI_COMM_WORLD_SIZE is not set"),
    ],
)
def test_an_environment_that_is_not_enough_is_refused_by_name(
    env: dict[str, str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        group_of(None, None, None, env)


def test_an_open_mpi_that_jax_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """jax would ask the Slurm around it, and each process train alone."""
    for name, value in (SLURM | MPI).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OMPI_MCA_orte_hnp_uri")
    with pytest.raises(UserError, match=r"process 3 of 4, and not where .* add --coordinator"):
        join.join(Group(None, 4, 3))
