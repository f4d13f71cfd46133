"""Mamba layers on any mesh against one device."""

import dataclasses
from functools import cache

import numpy as np
import pytest

from jaxneox.config.mamba_schema import MambaConfig
from jaxneox.config.schema import DataConfig, ModelConfig
from jaxneox.errors import UserError
from jaxneox.parallel.divides import check_divides
from tests.parallel.cases import GRADIENT, LOSS, PARAMETER
from tests.parallel.meshes import EOD, MODEL, Mesh, Outcome, apart, config, tokens, train

ONE = MambaConfig(channels=24, step_rank=3, state_size=5, bias=True)
GROUPS = dataclasses.replace(ONE, groups=4)
MIXED = dataclasses.replace(MODEL, num_layers=4, mamba=ONE, pattern=("dense", "mamba"))
MODELS = {
    "one group": MIXED,
    "four groups": dataclasses.replace(MIXED, mamba=GROUPS),
    "alone": dataclasses.replace(MIXED, pattern=("mamba",), mamba=GROUPS, tied_embedding=True),
}

CASES = [
    ("one group", Mesh(dp=2, tp=2)),
    ("one group", Mesh(tp=4, sequence=True, accumulation=2)),
    ("one group", Mesh(dp=2, pp=2, tp=2, zero=1, accumulation=2)),
    ("one group", Mesh(dp=2, cp=2, tp=2, zero=3)),
    ("four groups", Mesh(dp=2, tp=2, zero=2)),
    ("four groups", Mesh(dp=2, tp=4, zero=3, sequence=True)),
    ("alone", Mesh(pp=2, tp=2, chunks=2, accumulation=2, sequence=True)),
]


@cache
def one_device(name: str) -> Outcome:
    return train(Mesh(), MODELS[name], batches=tokens()[:2])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mesh"), CASES, ids=str)
def test_mamba_is_the_same_on_every_mesh(name: str, mesh: Mesh) -> None:
    expected, found = one_device(name), train(mesh, MODELS[name], batches=tokens()[:2])
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    worst = apart(found.grads, expected.grads)
    assert max(worst.values()) <= GRADIENT, worst
    assert max(apart(found.params, expected.params).values()) <= PARAMETER


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [Mesh(dp=2, tp=2), Mesh(pp=2, accumulation=2)], ids=str)
def test_packed_documents_are_the_same_on_every_mesh(mesh: Mesh) -> None:
    batches = tokens()[:1]
    ends = np.random.default_rng(1).random(batches.shape) < 0.25
    batches = np.where(ends, np.int32(EOD), batches)
    data = DataConfig(reset_attention_mask=True, reset_position_ids=True)
    expected = train(Mesh(), MIXED, batches=batches, data=data)
    found = train(mesh, MIXED, batches=batches, data=data)
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    assert max(apart(found.grads, expected.grads).values()) <= GRADIENT


@pytest.mark.parametrize(
    ("model", "tp", "message"),
    [
        (MODELS["alone"], 8, "tp=8 does not divide mamba_groups 4.*these do: 1, 2, 4"),
        (MIXED, 16, "tp=16 does not divide .*channels of a mamba layer 24"),
    ],
)
def test_sizes_that_a_mesh_does_not_divide(model: ModelConfig, tp: int, message: str) -> None:
    mesh = Mesh(tp=tp)
    with pytest.raises(UserError, match=message):
        check_divides(mesh.sizes, model, config(model, mesh).parallel, ring=False)


def test_a_ring_is_refused() -> None:
    from jaxneox.train.plan import uses_ring

    asked = config(MIXED, Mesh(cp=2, attention="ring"))
    with pytest.raises(UserError, match="ring cannot do mamba layers; expected gather"):
        uses_ring(asked, 2)
