"""What layers keep and moments, in the host's memory: the same numbers, from another place."""

import dataclasses
import re
from typing import Literal

import jax
import pytest

from jaxneox.config.schema import RematConfig
from jaxneox.objectives import Batch
from jaxneox.parallel.mesh import make_mesh
from jaxneox.train.checkpoints.restore import abstract_state
from jaxneox.train.dry_run.memory import memory_of
from jaxneox.train.dry_run.program import abstract_batch
from jaxneox.train.plan import build_plan
from jaxneox.train.step.offload import HOST
from jaxneox.train.step.step import Step
from tests.parallel.meshes import MODEL, Mesh, apart, config, train

SMALL = dataclasses.replace(MODEL, num_layers=2)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["full", "dots"])
@pytest.mark.parametrize(
    "mesh",
    [
        Mesh(dp=2, tp=2, zero=3, sequence=True),
        Mesh(dp=2, pp=2, accumulation=2),
        Mesh(cp=2, tp=2, accumulation=2, attention="ring"),
    ],
    ids=str,
)
def test_the_numbers_are_the_same(mesh: Mesh, policy: Literal["full", "dots"]) -> None:
    here, there = (train(mesh, SMALL, remat=RematConfig(policy, c)) for c in (False, True))
    assert there.losses == here.losses
    assert max(apart(there.grads, here.grads).values()) == 0


@pytest.mark.parametrize("in_cpu", [False, True])
def test_a_layers_input_goes_to_the_host(in_cpu: bool) -> None:
    cfg = config(SMALL, Mesh(dp=2), remat=RematConfig("full", in_cpu))
    plan = build_plan(cfg, {"dp": 2})
    mesh = make_mesh(plan.mesh_sizes)
    with jax.set_mesh(mesh):
        batch: Batch = abstract_batch(plan, mesh)
        traced = str(jax.make_jaxpr(Step(plan))(abstract_state(plan, mesh), batch))
    in_host = set(re.findall(r"f32<host>\[([^\]]*)\]", traced))
    one = "16@dp,16@cp,32"
    assert in_host == ({one, f"{SMALL.num_layers},{one}"} if in_cpu else set())


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [Mesh(), Mesh(dp=2, tp=2, zero=3), Mesh(dp=2, pp=2, zero=1, accumulation=2)], ids=str
)
def test_moments_on_the_host_are_updated_as_on_the_device(mesh: Mesh) -> None:
    parallel = dataclasses.replace(config(SMALL, mesh).parallel, offload_optimizer=True)
    here, there = train(mesh, SMALL), train(mesh, SMALL, parallel=parallel)
    assert there.losses == here.losses
    assert max(apart(there.params, here.params).values()) == 0


def test_moments_rest_on_the_host_and_counts_on_the_device() -> None:
    one = Mesh(dp=2)
    parallel = dataclasses.replace(config(SMALL, one).parallel, offload_optimizer=True)
    plan = build_plan(config(SMALL, one, parallel=parallel), one.sizes)
    mesh = make_mesh(plan.mesh_sizes)
    state = abstract_state(plan, mesh)
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.params)}
    assert kinds == {"device"}
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert len(moments) == 2 * len(state.params)
    assert {leaf.sharding.memory_kind for leaf in moments} == {HOST}
    counts = [leaf for leaf in jax.tree.leaves(state.opt_state) if not leaf.ndim]
    assert counts and {leaf.sharding.memory_kind for leaf in counts} == {"device"}
    assert memory_of(plan, mesh).optimizer == sum(leaf.dtype.itemsize for leaf in counts)
