"""Our objectives against TRL's trainers: `python -m tests.objectives.trl_apart` prints a table."""

import dataclasses
import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.config.schema import OptimizerConfig, ScheduleConfig, TrainConfig
from jaxneox.parallel.mesh import make_mesh
from jaxneox.train.plan import build_plan
from jaxneox.train.step.state import on_mesh, state_specs, with_params
from tests import conftest  # noqa: F401  (strict numerics before jax starts)
from tests.objectives.torch_side import BOUND, SMALL
from tests.objectives.trl_trainers import (
    BATCH,
    BETA,
    DECAY,
    LENGTH,
    LR,
    MODEL,
    STEPS,
    TRAINERS,
    WEIGHTS,
    Inputs,
    Params,
    run,
    to_ours,
)
from tests.parallel.meshes import HASTE, Fields, Mesh, Probe, config
from tests.reference.parameters import random_params

OBJECTIVES = {
    "DPO": ObjectiveConfig("dpo", dpo_beta=BETA),
    "DPO, hinge": ObjectiveConfig("dpo", dpo_beta=BETA, dpo_loss="hinge"),
    "IPO": ObjectiveConfig("dpo", dpo_beta=BETA, dpo_loss="ipo"),
    "KTO": ObjectiveConfig(
        "kto", kto_beta=BETA, **{f"kto_{name}": x for name, x in WEIGHTS.items()}
    ),
    "reward model": ObjectiveConfig("rm"),
    "SFT": ObjectiveConfig(),
}


class Apart(NamedTuple):
    """The greatest relative differences to a trainer of TRL's.

    Attributes:
        loss: of ten steps, each from the trainer's weights before it.
        gradient: of every leaf in these steps, by its norm or a thousandth of the greatest norm.
        trained: the losses where both train on their own, each with its AdamW.
    """

    loss: float
    gradient: float
    trained: float


def measure(name: str) -> Apart:
    """Take ten steps with TRL and the same ten here."""
    objective = OBJECTIVES[name]
    model = dataclasses.replace(MODEL, head="reward" if objective.kind == "rm" else "tokens")
    start, reference = random_params(model, 0), random_params(MODEL, 1)
    theirs = run(name, start, reference)
    batches = [fields(objective, inputs) for inputs in theirs.inputs]
    scale = 1.0
    if name == "IPO":  # TRL divides the margins by the answers' lengths, which are all the same
        (length,) = {int(n) for batch in batches for n in batch["labelled"].sum(-1).flat}
        objective, scale = dataclasses.replace(objective, dpo_beta=BETA / length), length**-2
    cfg = config(
        model, Mesh(), BATCH, objective=objective, train=TrainConfig(STEPS),
        optimizer=OptimizerConfig(
            "adam", lr=LR, betas=(0.9, 0.999), weight_decay=DECAY, grad_clip=0.0
        ),
        schedule=ScheduleConfig("constant", lr=LR, decay_iters=STEPS),
    )  # fmt: skip
    plan = build_plan(cfg, Mesh().sizes)
    mesh = make_mesh(plan.sizes)
    step = jax.jit(Probe(plan), compiler_options=HASTE)
    shardings, lay = on_mesh(mesh, state_specs(plan)), NamedSharding(mesh, P(None, "dp"))
    losses, gradients, trained = [], [], []
    with jax.set_mesh(mesh):
        begin = jax.jit(partial(with_params, plan), out_shardings=shardings)
        state = begin(jax.device_put(start, shardings.params))
        if plan.copied:
            state = state._replace(reference=jax.device_put(reference, shardings.reference))
        for batch, loss, tensors, grads in zip(
            batches, theirs.losses, theirs.weights, theirs.gradients, strict=True
        ):
            part = jax.device_put({n: x[None] for n, x in batch.items()}, lay)
            weights = {n: x.astype(np.float32) for n, x in to_ours(tensors, start).items()}
            there = state._replace(params=jax.device_put(weights, shardings.params))
            _, figures = step(there, part)
            losses.append(abs(scale * float(figures["loss"]) / loss - 1))
            found = {n: scale * x for n, x in jax.device_get(figures["grads"]).items()}
            gradients.append(worst(found, to_ours(grads, start)))
            state, figures = step(state, part)
            trained.append(abs(scale * float(figures["loss"]) / loss - 1))
    return Apart(max(losses), max(gradients), max(trained))


def worst(found: Params, expected: Params) -> float:
    largest = max(np.linalg.norm(x) for x in expected.values())
    return max(
        float(np.linalg.norm(found[name] - x) / max(np.linalg.norm(x), SMALL * largest))
        for name, x in expected.items()
    )


def fields(objective: ObjectiveConfig, inputs: Inputs) -> Fields:
    """Our batch of what TRL's collator made, in which a model's tokens are filled up alike."""
    given = {name: x.numpy() for name, x in inputs.items()}
    tokens = filled(given["input_ids"], LENGTH + 1).astype(np.int32)
    if objective.kind == "normal":
        counted = given["labels"][:, 1:] >= 0
        return {"tokens": tokens, "weights": filled(counted, LENGTH).astype(np.float32)}
    batch: dict[str, Any] = {"tokens": tokens}
    if objective.kind == "rm":  # the value after the last token, which is the last input
        last = given["attention_mask"].sum(-1) - 1
        batch["labelled"] = (np.arange(LENGTH) == last[:, None]).astype(np.float32)
    else:
        batch["labelled"] = completed(given["completion_mask"])
    if objective.kind == "kto":
        batch["reward"] = np.where(given["label"], 1, -1).astype(np.float32)
        batch["kl_tokens"] = filled(given["KL_input_ids"], LENGTH + 1).astype(np.int32)
        batch["kl_labelled"] = completed(given["KL_completion_mask"])
    else:  # all chosen texts come first
        batch = {n: np.stack(np.split(x, 2), axis=1) for n, x in batch.items()}
    return batch | {"weights": np.ones(BATCH, np.float32)}


def completed(mask: np.ndarray) -> np.ndarray:
    return filled(mask[:, 1:], LENGTH).astype(np.float32)


def filled(rows: np.ndarray, length: int) -> np.ndarray:
    return np.pad(rows, ((0, 0), (0, length - rows.shape[1])))


def main() -> int:
    print("| trainer | loss | gradient | loss, each trained on its own |\n|---|---|---|---|")
    failed = 0
    for name in TRAINERS:
        apart = measure(name)
        failed += max(apart.loss, apart.gradient) > BOUND
        print(f"| {name} | " + " | ".join(f"{x:.1e}" for x in apart) + " |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
