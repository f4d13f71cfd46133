"""The step that train.py runs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxneox.parallel.mesh import make_mesh
from jaxneox.train.checkpoints.restore import initial_state
from jaxneox.train.step.step import build_step
from tests.bench.ours.model import ONE, plan_of
from tests.bench.sizes import Case


def prepare(case: Case) -> Callable[[], float]:
    """-> one step, which returns its loss."""
    plan, mesh = plan_of(case), make_mesh(ONE)
    batch = {
        "tokens": jnp.asarray(case.tokens(case.length + 1)[None]),
        "weights": jnp.ones((1, case.batch, case.length), jnp.float32),
    }
    with jax.set_mesh(mesh):
        held = [initial_state(plan, mesh, None)]
        step = build_step(plan, mesh)

    def run() -> float:
        with jax.set_mesh(mesh):
            held[0], metrics = step(held[0], batch)
            jax.block_until_ready(held[0])  # the next begins where this one has ended
        return float(metrics["loss"])

    return run
