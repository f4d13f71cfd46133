"""The function that jaxneox.load gives."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxneox.parallel.mesh import make_mesh
from tests.bench.ours.model import ONE, plan_of
from tests.bench.sizes import Case


def prepare(case: Case) -> Callable[[], float]:
    """-> all logits of a batch; returns one of them."""
    plan, mesh = plan_of(case), make_mesh(ONE)
    tokens = jnp.asarray(case.tokens(case.length))
    with jax.set_mesh(mesh):
        params = jax.jit(plan.model.init)(jax.random.key(0))
        logits = jax.jit(plan.model.logits)

    def run() -> float:
        with jax.set_mesh(mesh):
            found = logits(params, tokens)
        return float(found.block_until_ready()[0, 0, 0])

    return run
