"""Every objective on every mesh against one device: `python -m tests.objectives.meshes`."""

import dataclasses
import sys
from functools import cache

from jaxneox.config.schema import LoraConfig, ModelConfig, TrainConfig
from jaxneox.model.lora import PATTERN
from tests import conftest  # noqa: F401  (eight devices before jax starts)
from tests.objectives.batches import OBJECTIVES, batch, model_of
from tests.parallel.cases import GRADIENT, LOSS, PARAMETER
from tests.parallel.meshes import STEPS, Mesh, Outcome, apart, train
from tests.parallel.test_lora import weights as lora_weights
from tests.reference.parameters import random_params

MESHES = [
    Mesh(dp=2, tp=2),
    Mesh(dp=2, tp=2, zero=1, sequence=True, accumulation=2),
    Mesh(dp=4, zero=2, accumulation=2),
    Mesh(dp=2, pp=2, tp=2, zero=3, accumulation=4),
    Mesh(dp=2, cp=2, tp=2, accumulation=2),
    Mesh(pp=2, cp=4, attention="ring", accumulation=2),
]
LORA = "dpo, of lora"
NAMES = (*OBJECTIVES, LORA)

LOG_PROB = 4.2
"""About the log-probability of a token, of 64 that are equally likely."""

TEXT = 4e-5
"""What rounding leaves of sums of log-probabilities, about ten times what is seen."""


def possible(name: str, mesh: Mesh) -> bool:
    """NeoX's KTO takes statistics of micro-batches, so another cut of the batch is another loss."""
    return name == LORA or not OBJECTIVES[name].as_neox or mesh.dp * mesh.accumulation == 1


def run(name: str, mesh: Mesh) -> Outcome:
    settings = OBJECTIVES["dpo" if name == LORA else name]
    model: ModelConfig = model_of(settings)
    learned = TrainConfig(STEPS, z_loss=0.01)  # without it a bias has no gradient but rounding
    given = None
    copied = settings.has_reference and settings.reference is None
    reference = random_params(model, 1) if copied else None
    if name == LORA:
        model = dataclasses.replace(model, lora=LoraConfig(2, 4.0, ("qkv", "down")))
        learned = dataclasses.replace(learned, trainable=(PATTERN,))
        given = lora_weights(model)
        reference = {n: 0 * w for n, w in given.items() if "_lora." in n}  # the model without them
    return train(
        mesh,
        model,
        batches=[batch(settings, seed) for seed in range(2)],
        weights=given,
        reference=reference,
        objective=settings,
        train=learned,
    )


@cache
def one_device(name: str) -> Outcome:
    return run(name, Mesh())


def loss_bound(name: str, loss: float) -> float:
    """Bound the difference of two losses by the rounding of what they are made of.

    IPO squares a difference of texts' log-probabilities; in REINFORCE terms of both signs, each a
    log-probability times a reward, are added up.
    """
    if name == "ipo":
        return 2 * abs(loss) ** 0.5 * TEXT
    if name.startswith("reinforce"):
        return LOSS * LOG_PROB
    return LOSS * abs(loss)


def check(name: str, mesh: Mesh) -> dict[str, float]:
    """Return how far a run is from that of one device, in parts of each bound."""
    expected, found = one_device(name), run(name, mesh)
    pairs = zip(found.losses, expected.losses, strict=True)
    return {
        "loss": max(abs(a - b) / loss_bound(name, b) for a, b in pairs),
        "gradient": max(apart(found.grads, expected.grads).values()) / GRADIENT,
        "parameter": max(apart(found.params, expected.params).values()) / PARAMETER,
    }


def main() -> int:
    print("## Objectives, in parts of the bounds above\n")
    print("| objective | mesh | loss | gradient | parameter |\n|---|---|---|---|---|", flush=True)
    failed = 0
    for name in NAMES:
        for mesh in MESHES:
            if possible(name, mesh):
                parts = check(name, mesh)
                failed += max(parts.values()) > 1
                cells = [name, str(mesh), *(f"{part:.2f}" for part in parts.values())]
                print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\nParts of the bounds; {failed} cases beyond one.")
    return failed


if __name__ == "__main__":
    sys.exit(main())
