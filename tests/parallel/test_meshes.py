"""Law 1: one function, any mesh. Every case against the same run on one device.

Here are cases in which every two features meet, switched on or off; `make matrix` takes every two
of their values.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest

from jaxneox.config.schema import LossScaleConfig, PrecisionConfig
from jaxneox.train.step import replicas
from tests.parallel.cases import (
    BOUNDS,
    GRADIENT,
    LOSS,
    PARAMETER,
    Case,
    check,
    covering,
    on_or_off,
    one_device,
)
from tests.parallel.meshes import MODEL, Mesh, apart, config, tokens, train


@pytest.mark.parametrize("case", covering(on_or_off), ids=str)
def test_a_run_is_the_same_on_every_mesh(case: Case) -> None:
    worst = check(case)
    assert all(worst[name] <= bound for name, bound in BOUNDS.items()), worst


def test_dropout_drops() -> None:
    """Else its cases above would say nothing."""
    dropped, whole = (one_device(Case(Mesh(), dropout=d).model()) for d in (True, False))
    assert np.abs(np.array(dropped.losses) / np.array(whole.losses) - 1).min() > 1e-4


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_a_tied_embedding_on_two_stages(zero: int) -> None:
    """Megatron-LM issue 844: its gradient and its update, with the optimizer split over dp."""
    case = Case(Mesh(dp=2, pp=2, zero=zero, accumulation=2), tied=True, parallel=False)
    found, expected = train(case.mesh, case.model()), one_device(case.model())
    name = "embed.tokens"
    assert apart(found.grads, expected.grads)[name] <= GRADIENT
    assert apart(found.params, expected.params)[name] <= PARAMETER
    assert not any("unembed" in other for other in found.params)


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
    expected, found = train(Mesh(), model), train(Mesh(2, 2, 3, True, 2, pp=2), model)
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


VARIANTS: dict[str, tuple[Mesh, dict[str, Any]]] = {
    "alibi in a window around a ring": (
        Mesh(pp=2, cp=2, tp=2, attention="ring"),
        {"positions": {"kind": "alibi"}, "attention": {"window": 5}, "parallel_residual": False},
    ),
    "normalised keys and learned positions around a ring": (
        Mesh(cp=4, tp=2, sequence=True, attention="ring"),
        {"positions": {"kind": "learned"}, "attention": {"qk_norm": True}, "shared_norm": True},
    ),
    "relative biases of gathered keys": (
        Mesh(pp=2, cp=2, tp=2, zero=3, sequence=True),
        {"positions": {"kind": "rpe"}, "attention": {"window": 9}, "tied_embedding": True},
    ),
    "alibi and normalised keys, gathered": (
        Mesh(dp=2, cp=4),
        {"positions": {"kind": "alibi"}, "attention": {"qk_norm": True}},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_positions_and_masks_are_right_on_every_part_of_a_sequence(name: str) -> None:
    mesh, changes = VARIANTS[name]
    parts = {key: value for key, value in changes.items() if not isinstance(value, dict)}
    for key in ("positions", "attention"):
        parts[key] = dataclasses.replace(getattr(MODEL, key), **changes[key])
    model, batches = dataclasses.replace(MODEL, **parts), tokens()[:1]
    expected, found = train(Mesh(), model, batches=batches), train(mesh, model, batches=batches)
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    assert max(apart(found.grads, expected.grads).values()) <= GRADIENT


def test_micro_batches_of_one_sequence() -> None:
    """A dimension of one forgets easily that it is split."""
    case, batches = Case(Mesh(pp=2, accumulation=2), dropout=True), tokens()[:1, :2]
    expected, found = (train(mesh, case.model(), batches=batches) for mesh in (Mesh(), case.mesh))
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    assert max(apart(found.grads, expected.grads).values()) <= GRADIENT
