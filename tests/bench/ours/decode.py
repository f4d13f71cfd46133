"""`generate` of what jaxneox.load returns."""

from collections.abc import Callable

import jax

from jaxneox.loading import LoadedModel
from jaxneox.parallel.mesh import make_mesh
from tests.bench.ours.model import ONE, plan_of
from tests.bench.sizes import Case


def prepare(case: Case) -> Callable[[], list[list[int]]]:
    """-> greedy answers to a batch of prompts, as many tokens as were asked for."""
    plan, mesh = plan_of(case), make_mesh(ONE)
    with jax.set_mesh(mesh):
        params = jax.jit(plan.model.init)(jax.random.key(0))
    model = LoadedModel(plan.cfg, params, None, mesh, plan.rules, plan.cfg.precision.compute)
    prompts = case.tokens(case.length).tolist()

    def run() -> list[list[int]]:
        answers = model.generate(prompts, max_tokens=case.new, rows=case.batch)
        return [answer.tokens for answer in answers]

    return run
