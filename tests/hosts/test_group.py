"""Who is one of several processes, and who is alone."""

import pytest

from jaxneox.errors import UserError
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
