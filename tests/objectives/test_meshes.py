"""Law 1 for every objective: one function, any mesh, however the batch is cut."""

from functools import cache

import numpy as np
import pytest

from tests.objectives.batches import OBJECTIVES, batch, model_of
from tests.parallel.cases import GRADIENT, LOSS, PARAMETER
from tests.parallel.meshes import Mesh, Outcome, apart, train
from tests.reference.parameters import random_params

MESHES = [
    Mesh(dp=2, tp=2),
    Mesh(dp=2, tp=2, zero=1, sequence=True, accumulation=2),
    Mesh(dp=4, zero=2, accumulation=2),
    Mesh(dp=2, pp=2, tp=2, zero=3, accumulation=4),
    Mesh(cp=2, tp=2, dp=2, accumulation=2),
    Mesh(cp=4, pp=2, attention="ring", accumulation=2),
]


def run(name: str, mesh: Mesh) -> Outcome:
    settings = OBJECTIVES[name]
    model = model_of(settings)
    compared = settings.has_reference and settings.reference is None
    return train(
        mesh,
        model,
        batches=[batch(settings, seed) for seed in range(3)],
        reference=random_params(model, 1) if compared else None,
        objective=settings,
    )


@cache
def one_device(name: str) -> Outcome:
    return run(name, Mesh())


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_mesh_as_one_device(name: str, mesh: Mesh) -> None:
    if OBJECTIVES[name].as_neox and mesh.dp * mesh.accumulation > 1:
        pytest.skip("NeoX's statistics are those of a micro-batch")
    expected, found = one_device(name), run(name, mesh)
    print(
        name,
        mesh,
        max(abs(np.array(found.losses) / np.array(expected.losses) - 1)),
        max(apart(found.grads, expected.grads).values()),
        max(apart(found.params, expected.params).values()),
    )
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    assert max(apart(found.grads, expected.grads).values()) <= GRADIENT
    assert max(apart(found.params, expected.params).values()) <= PARAMETER
