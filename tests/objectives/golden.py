"""NeoX's runs of post-training, taken here: `python -m tests.objectives.golden` compares them."""

import contextlib
import sys
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxneox.config import Settings
from jaxneox.config.schema import Config
from jaxneox.parallel.mesh import make_mesh
from jaxneox.train.plan import TrainPlan, build_plan
from jaxneox.train.step.state import on_mesh, state_specs, with_params
from tests import conftest  # noqa: F401  (eight devices before jax starts)
from tests.objectives.golden_apart import Run, in_parts
from tests.objectives.golden_cases import GoldenCase, cases
from tests.parallel.meshes import HASTE, Mesh, Probe

ONE, FOUR = Mesh(), Mesh(dp=2, tp=2)


def train(case: GoldenCase, mesh: Mesh) -> Run:
    """Take the steps of a golden run."""
    repeats = repeated(case, mesh)
    sizes = {
        "train_micro_batch_size_per_gpu": case.micro * repeats // mesh.dp,
        "model_parallel_size": mesh.tp,
        "pipe_parallel_size": mesh.pp,
    }
    weights, keys = case.weights, case.settings.keys | sizes
    if weights.lr_factors:
        keys["lr_factors"] = weights.lr_factors
    with contextlib.chdir(case.folder):
        plan, step = compiled(Settings(keys).resolve(mesh.dp, case.vocabulary), mesh)
    devices, figures, gradients = make_mesh(plan.sizes), [], {}
    shardings, lay = on_mesh(devices, state_specs(plan)), NamedSharding(devices, P(None, "dp"))
    with jax.set_mesh(devices):
        start = jax.jit(partial(with_params, plan), out_shardings=shardings)
        state = start(jax.device_put(weights.params, shardings.params))
        for number, batch in enumerate(case.batches()):
            if plan.curriculum is not None:
                batch = plan.curriculum.cut(batch, number)
            cut = {
                name: np.concatenate([x.reshape(-1, case.micro, *x.shape[1:])] * repeats, axis=1)
                for name, x in batch.items()
            }
            state, said = step(state, jax.device_put(cut, lay))
            said = jax.device_get(said)
            gradients = gradients or said["grads"]
            figures.append({name: float(x) for name, x in said.items() if name != "grads"})
        last = jax.device_get(state.params)
    return Run(plan.cfg.model, figures, gradients, weights.params, last)


def repeated(case: GoldenCase, mesh: Mesh) -> int:
    """How often the global batch has each row.

    The replicas divide the pairs of a micro-batch among them. Where a loss depends on which rows
    share a micro-batch, or there is one alone, each replica has all of its rows instead: then it is
    NeoX's run with as many replicas, which all see the same.
    """
    divided = case.kind in ("dpo", "rm") and case.micro % mesh.dp == 0
    return 1 if divided else mesh.dp


STEPS: dict[str, tuple[TrainPlan, Any]] = {}


def compiled(cfg: Config, mesh: Mesh) -> tuple[TrainPlan, Any]:
    """Plan and compile a step, or return one that is alike: where its data are is no part of it."""
    plan = build_plan(cfg, mesh.sizes)
    parts = (cfg.model, cfg.precision, cfg.optimizer, cfg.schedule, cfg.parallel, cfg.batch)
    key = repr((mesh, *parts, cfg.train, plan.objective, plan.reference is None))
    if key not in STEPS:
        STEPS[key] = plan, jax.jit(Probe(plan), compiler_options=HASTE)
    return STEPS[key]


def check(case: GoldenCase, mesh: Mesh) -> dict[str, float]:
    """Return how far a run is from NeoX's, in parts of each bound."""
    return in_parts(case, train(case, mesh))


def main() -> int:
    print("## NeoX's runs of post-training, in parts of the bounds above\n")
    failed, head = 0, False
    for case in cases():
        for mesh in (ONE, FOUR):
            parts = check(case, mesh)
            if not head:
                print("| run of NeoX | mesh | " + " | ".join(parts) + " |")
                print("|" + "---|" * (len(parts) + 2))
            head, failed = True, failed + (max(parts.values()) > 1)
            cells = [str(case), str(mesh), *(f"{part:.2f}" for part in parts.values())]
            print("| " + " | ".join(cells) + " |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
