"""Law 1: one function, any mesh. Every case against the same run on one device.

Of the product of shapes, ZeRO stages, sequence parallelism, accumulation and tying a subset in
which every pair of values occurs. `make matrix ALL=--all` runs all of it.
"""

import dataclasses
import itertools
from functools import cache

import pytest

from jaxneox.config.schema import LossScaleConfig, PrecisionConfig
from jaxneox.train.step import replicas
from tests.parallel.meshes import MODEL, Mesh, Outcome, apart, config, train

SHAPES = [(1, 1), (2, 1), (1, 2), (1, 4), (2, 4), (4, 2)]
PRODUCT = [
    (Mesh(dp, tp, zero, sequence, accumulation), tied)
    for (dp, tp), zero, sequence, accumulation, tied in itertools.product(
        SHAPES, (0, 1, 2, 3), (False, True), (1, 2, 4), (False, True)
    )
]

# float32 rounding of sums in another order, which a bug would exceed by orders of magnitude
LOSS, GRADIENT, PARAMETER = 1e-6, 5e-6, 1e-5


def pairs(case: tuple[Mesh, bool]) -> set[tuple[object, object]]:
    mesh, tied = case
    values = enumerate(((mesh.dp, mesh.tp), mesh.zero, mesh.sequence, mesh.accumulation, tied))
    return set(itertools.combinations(values, 2))


def covering(cases: list[tuple[Mesh, bool]]) -> list[tuple[Mesh, bool]]:
    """A small subset in which every pair of values that occurs in `cases` occurs, greedily."""
    missing = set().union(*map(pairs, cases))
    chosen = []
    while missing:
        best = max(cases, key=lambda case: len(pairs(case) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


@cache
def one_device(tied: bool) -> Outcome:
    return train(Mesh(), dataclasses.replace(MODEL, tied_embedding=tied))


def check(mesh: Mesh, tied: bool) -> dict[str, float]:
    """The greatest relative difference of losses, gradients and parameters to one device."""
    found = train(mesh, dataclasses.replace(MODEL, tied_embedding=tied))
    expected = one_device(tied)
    losses = [abs(a / b - 1) for a, b in zip(found.losses, expected.losses, strict=True)]
    return {
        "loss": max(losses),
        "gradient": max(apart(found.grads, expected.grads).values()),
        "parameter": max(apart(found.params, expected.params).values()),
    }


@pytest.mark.parametrize(
    ("mesh", "tied"),
    covering(PRODUCT),
    ids=lambda value: str(value) if isinstance(value, Mesh) else ("tied" if value else "untied"),
)
def test_a_run_is_the_same_on_every_mesh(mesh: Mesh, tied: bool) -> None:
    worst = check(mesh, tied)
    assert worst["loss"] <= LOSS
    assert worst["gradient"] <= GRADIENT
    assert worst["parameter"] <= PARAMETER


def test_dropout_is_the_same_on_every_mesh_and_split() -> None:
    attention = dataclasses.replace(MODEL.attention, dropout=0.2)
    model = dataclasses.replace(MODEL, attention=attention, hidden_dropout=0.2)
    expected, found = train(Mesh(), model), train(Mesh(2, 4, 3, True, 2), model)
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    assert max(apart(found.grads, expected.grads).values()) <= GRADIENT
    assert expected.losses != pytest.approx(one_device(tied=False).losses, rel=1e-3)


def test_sequential_residual_gated_and_rms_on_a_mesh() -> None:
    """A Llama: another block, another norm, a gate and no biases, but one of the logits."""
    model = dataclasses.replace(
        MODEL,
        parallel_residual=False,
        logit_bias=True,
        norm=dataclasses.replace(MODEL.norm, kind="rmsnorm"),
        mlp=dataclasses.replace(MODEL.mlp, activation="silu", gated=True, bias=False),
        attention=dataclasses.replace(MODEL.attention, bias=False),
    )
    expected, found = train(Mesh(), model), train(Mesh(2, 4, 3, True, 2), model)
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    assert max(apart(found.grads, expected.grads).values()) <= GRADIENT
    assert max(apart(found.params, expected.params).values()) <= PARAMETER


def test_a_tied_model_with_a_logit_bias_and_a_dropped_attention_on_a_mesh() -> None:
    """What is dropped has no gradient, and only decays."""
    changes = {"tied_embedding": True, "logit_bias": True, "attention_dropped": True}
    model = dataclasses.replace(MODEL, **changes)
    expected, found = train(Mesh(), model), train(Mesh(2, 2, 3, True, 2), model)
    idle = {n for n in expected.grads if n.startswith(("layers.attention.", "layers.norm1."))}
    assert len(idle) == 6 and not any(found.grads[name].any() for name in idle)
    felt = {name: gradient for name, gradient in expected.grads.items() if name not in idle}
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    assert max(apart(found.grads, felt).values()) <= GRADIENT
    assert max(apart(found.params, expected.params).values()) <= PARAMETER


def test_float16_gradients_are_scaled_by_the_replicas_and_back() -> None:
    """DeepSpeed's scale counts before the mean over replicas; the result must not know of it."""
    half = PrecisionConfig("float16", LossScaleConfig(initial=2.0**8))
    replicas_of = {dp: replicas(config(MODEL, Mesh(dp), precision=half)) for dp in (1, 2, 4)}
    assert replicas_of == {1: 1.0, 2: 2.0, 4: 4.0}
    assert replicas(config(MODEL, Mesh(4))) == 1.0
    expected, found = train(Mesh(), precision=half), train(Mesh(4), precision=half)
    # float16 rounds to 2**-11; a gradient passes some twenty roundings in a row
    assert found.losses == pytest.approx(expected.losses, rel=2.0**-11)
    assert max(apart(found.grads, expected.grads).values()) <= 20 * 2.0**-11
