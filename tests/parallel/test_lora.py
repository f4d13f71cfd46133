"""LoRA's matrices on every mesh as on one device, and as the chain rule has them."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from jaxneox.config.schema import LoraConfig, MlpConfig, ModelConfig, TrainConfig
from jaxneox.model.lora import PATTERN
from jaxneox.model.parameters import Declaration
from tests.parallel.cases import GRADIENT, LOSS
from tests.parallel.meshes import MODEL, STEPS, Mesh, apart, train
from tests.reference.parameters import random_params

LORA = LoraConfig(rank=4, alpha=8.0, targets=("qkv", "out", "up", "gate", "down"))
GATED = dataclasses.replace(MODEL, mlp=MlpConfig(size=64, activation="silu", gated=True))
READS = {"attention.qkv": 1, "attention.out": 3, "mlp.up": 1, "mlp.gate": 1, "mlp.down": 1}
"""How many axes each matrix reads."""

TRAINED = TrainConfig(STEPS, trainable=(PATTERN,))
MESHES = [
    Mesh(2, 2),
    Mesh(2, 2, 0, True, 4),
    Mesh(2, 2, 1, False, 2),
    Mesh(2, 2, 2, True, 2),
    Mesh(1, 2, 3, accumulation=4, pp=2),
    Mesh(2, 2, accumulation=2, pp=2),
    Mesh(2, 2, cp=2),
    Mesh(1, 2, accumulation=2, cp=2, attention="ring"),
]


def weights(model: ModelConfig) -> dict[str, np.ndarray]:
    """Draw all of them, B as well, which begins at zero."""
    random = np.random.default_rng(0)
    base = random_params(dataclasses.replace(model, lora=None), 0)
    new = {n: s for n, s in Declaration(model).shapes.items() if n not in base}
    return base | {n: (0.1 * random.standard_normal(s)).astype("f4") for n, s in new.items()}


def as_matrices(stacked: np.ndarray, reads: int) -> np.ndarray:
    """[L, *, *] as [L, rows, columns]."""
    return stacked.reshape(len(stacked), math.prod(stacked.shape[1 : 1 + reads]), -1)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_every_mesh_as_one_device(dropout: float) -> None:
    lora = dataclasses.replace(LORA, dropout=dropout)
    model = dataclasses.replace(GATED, lora=lora, hidden_dropout=dropout / 2)
    given = weights(model)
    expected = train(Mesh(), model, weights=given, train=TRAINED)
    assert len(expected.grads) == 10
    for mesh in MESHES if dropout == 0.0 else MESHES[1::3]:
        found = train(mesh, model, weights=given, train=TRAINED)
        assert found.losses == pytest.approx(expected.losses, rel=LOSS), mesh
        assert max(apart(found.grads, expected.grads).values()) <= GRADIENT, mesh


@pytest.mark.slow
@pytest.mark.parametrize("stabilized", [True, False])
def test_gradients_by_the_chain_rule(stabilized: bool) -> None:
    """Of the model in whose matrices they are merged: dA = s dW B^T and dB = s A^T dW."""
    lora = dataclasses.replace(LORA, stabilized=stabilized)
    model = dataclasses.replace(GATED, lora=lora)
    scale = 8.0 / (2.0 if stabilized else 4.0)
    given = weights(model)
    merged = {name: w for name, w in given.items() if "_lora." not in name}
    for name, reads in READS.items():
        a, b = (given[f"layers.{name}_lora.{each}"] for each in "ab")
        added = scale * as_matrices(a, reads) @ as_matrices(b, 1)
        merged[f"layers.{name}"] = merged[f"layers.{name}"] + added.reshape(
            merged[f"layers.{name}"].shape
        )
    whole = train(Mesh(), GATED, weights=merged)
    found = train(Mesh(), model, weights=given, train=TRAINED)
    assert found.losses[0] == pytest.approx(whole.losses[0], rel=LOSS)
    expected = {}
    for name, reads in READS.items():
        d = as_matrices(whole.grads[f"layers.{name}"], reads)
        a, b = (f"layers.{name}_lora.{each}" for each in "ab")
        left, right = as_matrices(given[a], reads), as_matrices(given[b], 1)
        expected[a] = (scale * d @ right.swapaxes(1, 2)).reshape(given[a].shape)
        expected[b] = (scale * left.swapaxes(1, 2) @ d).reshape(given[b].shape)
    assert max(apart(found.grads, expected).values()) <= GRADIENT


def test_it_begins_as_the_model_that_it_stands_beside() -> None:
    model = dataclasses.replace(GATED, lora=LORA)
    params = Declaration(model).init(jax.random.key(0))
    for name, w in params.items():
        if name.endswith("_lora.b"):
            assert not np.any(w)
        if name.endswith("_lora.a"):
            reads = READS[name.removeprefix("layers.").removesuffix("_lora.a")]
            bound = 1 / math.sqrt(math.prod(w.shape[1 : 1 + reads]))
            assert 0.9 * bound < np.abs(w).max() <= bound
