"""jaxneox's side: the step that train.py runs, and the function that jaxneox.load gives."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxneox.config import resolve
from jaxneox.parallel.mesh import make_mesh, whole
from jaxneox.train.flops import flops_per_token
from jaxneox.train.run import Plan, build_plan
from jaxneox.train.state import new_state, on_mesh, places, state_specs
from jaxneox.train.step import Batch, build_step
from tests.bench.sizes import VOCABULARY, Case

ONE = whole({"dp": 1})


def plan_of(case: Case) -> Plan:
    return build_plan(resolve(case.keys, dp=1, vocab_size=None), ONE)


def training(case: Case) -> Callable[[], float]:
    """-> one step, which returns its loss."""
    plan, mesh = plan_of(case), make_mesh(ONE)
    batch = Batch(
        jnp.asarray(tokens_of(case, case.length + 1)[None]),
        jnp.ones((1, case.batch, case.length), jnp.float32),
    )
    with jax.set_mesh(mesh):
        specs = state_specs(plan.model, plan.optimizer, places(plan.model, plan.rules))
        make = jax.jit(
            lambda: new_state(plan.cfg, plan.model, plan.optimizer),
            out_shardings=on_mesh(mesh, specs),
        )
        held = [make()]
        step = build_step(plan.cfg, plan.model, plan.optimizer, plan.rules)

    def run() -> float:
        with jax.set_mesh(mesh):
            held[0], metrics = step(held[0], batch)
        return float(metrics["loss"])

    return run


def forward(case: Case) -> Callable[[], float]:
    """-> all logits of a batch; returns one of them."""
    plan, mesh = plan_of(case), make_mesh(ONE)
    tokens = jnp.asarray(tokens_of(case, case.length))
    with jax.set_mesh(mesh):
        params = jax.jit(plan.model.init)(jax.random.key(0))
        logits = jax.jit(plan.model.logits)

    def run() -> float:
        with jax.set_mesh(mesh):
            found = logits(params, tokens)
        return float(found.block_until_ready()[0, 0, 0])

    return run


def model_flops(case: Case, kind: str) -> float:
    """Of a training step, or of its forward part alone."""
    plan = plan_of(case)
    step = flops_per_token(plan.model.shapes, plan.cfg.model) * case.batch * case.length
    return step if kind == "train" else step / 3


def tokens_of(case: Case, length: int) -> np.ndarray:
    """int32 [batch, length]"""
    chance = np.random.default_rng(0)
    return chance.integers(0, VOCABULARY, (case.batch, length), dtype=np.int32)
