"""Law 1: one function, any mesh. Every case against the same run on one device.

Here are cases in which every two features meet, switched on or off; `make matrix` takes every two
of their values.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneox.config.optimization_schema import LossScaleConfig
from jaxneox.config.schema import DataConfig, PrecisionConfig, RematConfig, RopeScaling
from jaxneox.loading.resting import abstract_params
from jaxneox.model import Model
from jaxneox.parallel.mesh import make_mesh, whole
from jaxneox.parallel.rules import rules_for
from jaxneox.train.step.step import replica_scale
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
from tests.parallel.meshes import EOD, LENGTH, MODEL, Mesh, apart, config, tokens, train
from tests.reference.parameters import random_params


@pytest.mark.slow
@pytest.mark.parametrize("case", covering(on_or_off), ids=str)
def test_a_run_is_the_same_on_every_mesh(case: Case) -> None:
    worst = check(case)
    assert all(worst[name] <= bound for name, bound in BOUNDS.items()), worst


def test_dropout_drops() -> None:
    """Else its cases above would say nothing."""
    dropped, whole = (one_device(Case(Mesh(), dropout=d).model()) for d in (True, False))
    assert np.abs(np.array(dropped.losses) / np.array(whole.losses) - 1).min() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_a_tied_embedding_on_two_stages(zero: int) -> None:
    """Megatron-LM issue 844: its gradient and its update, with the optimizer split over dp."""
    case = Case(Mesh(dp=2, pp=2, zero=zero, accumulation=2), tied=True, parallel=False)
    found, expected = train(case.mesh, case.model()), one_device(case.model())
    name = "embed.tokens"
    assert apart(found.grads, expected.grads)[name] <= GRADIENT
    assert apart(found.params, expected.params)[name] <= PARAMETER
    assert not any("unembed" in other for other in found.params)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_tied_model_with_a_logit_bias_and_a_dropped_attention_on_a_mesh() -> None:
    """What is dropped has no gradient, and only decays."""
    changes = {"tied_embedding": True, "logit_bias": True, "attention_dropped": True}
    model = dataclasses.replace(MODEL, **changes)
    expected, found = train(Mesh(), model), train(Mesh(2, 2, 3, True, 2), model)
    idle = {n for n in expected.grads if n.startswith(("layers.attention.", "layers.norm1."))}
    assert len(idle) == 6 and not any(found.grads[name].any() for name in idle)
    live = {name: gradient for name, gradient in expected.grads.items() if name not in idle}
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    assert max(apart(found.grads, live).values()) <= GRADIENT
    assert max(apart(found.params, expected.params).values()) <= PARAMETER


@pytest.mark.slow
def test_float16_gradients_are_scaled_by_the_replicas_and_back() -> None:
    """DeepSpeed's scale counts before the mean over replicas; the result must not know of it."""
    half = PrecisionConfig("float16", LossScaleConfig(initial=2.0**8))
    replicas_of = {dp: replica_scale(config(MODEL, Mesh(dp), precision=half)) for dp in (1, 2, 4)}
    assert replicas_of == {1: 1.0, 2: 2.0, 4: 4.0}
    assert replica_scale(config(MODEL, Mesh(4))) == 1.0
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
    "norms of each head, yarn and no output bias around a ring": (
        Mesh(pp=2, cp=2, tp=2, attention="ring"),
        {
            "positions": {"scaling": RopeScaling("yarn", 2.0, LENGTH // 2, 1.1, 1.0, 0.1)},
            "attention": {"qk_norm_per_head": True, "output_bias": False, "window": 9},
            "norm": {"kind": "rmsnorm"},
            "parallel_residual": False,
        },
    ),
    "norms of all heads together, split over devices, around a ring": (
        Mesh(pp=2, cp=2, tp=2, attention="ring"),
        {"attention": {"qk_norm_joint": True}, "norm": {"kind": "rmsnorm"}},
    ),
    "longer texts, and heads that are wider than the stream, gathered": (
        Mesh(dp=2, cp=2, tp=2, zero=3, sequence=True),
        {
            "positions": {"rotary_fraction": 1.0, "scaling": RopeScaling("dynamic", 2.0, 5)},
            "attention": {"head_dim": 6, "qk_norm_per_head": True},
            "norm": {"kind": "rmsnorm"},
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_positions_and_masks_are_right_on_every_part_of_a_sequence(name: str) -> None:
    mesh, changes = VARIANTS[name]
    parts = {key: value for key, value in changes.items() if not isinstance(value, dict)}
    for key in changes.keys() - parts.keys():
        parts[key] = dataclasses.replace(getattr(MODEL, key), **changes[key])
    model, batches = dataclasses.replace(MODEL, **parts), tokens()[:1]
    expected, found = train(Mesh(), model, batches=batches), train(mesh, model, batches=batches)
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    assert max(apart(found.grads, expected.grads).values()) <= GRADIENT


PACKED: dict[str, Mesh] = {
    "learned": Mesh(pp=2, cp=2, tp=2, accumulation=4, attention="ring"),
    "rotary": Mesh(dp=2, cp=2, tp=2, zero=3, sequence=True),
    "rpe": Mesh(pp=2, dp=2, tp=2, chunks=2, accumulation=2, sequence=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PACKED)
def test_packed_documents_are_the_same_on_every_mesh(kind: Any) -> None:
    """A ring, gathered keys and values in blocks, and the formula in stages."""
    places = dataclasses.replace(MODEL.positions, kind=kind)
    model, batches = dataclasses.replace(MODEL, positions=places), tokens()[:1]
    ends = np.random.default_rng(1).random(batches.shape) < 0.25
    batches = np.where(ends, np.int32(EOD), batches)
    data = DataConfig(reset_attention_mask=True, reset_position_ids=True)
    expected = train(Mesh(), model, batches=batches, data=data)
    found = train(PACKED[kind], model, batches=batches, data=data)
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    assert max(apart(found.grads, expected.grads).values()) <= GRADIENT


@pytest.mark.slow
def test_micro_batches_of_one_sequence() -> None:
    """A dimension of one forgets easily that it is split."""
    case, batches = Case(Mesh(pp=2, accumulation=2), dropout=True), tokens()[:1, :2]
    expected, found = (train(mesh, case.model(), batches=batches) for mesh in (Mesh(), case.mesh))
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    assert max(apart(found.grads, expected.grads).values()) <= GRADIENT


@pytest.mark.slow
def test_what_a_stage_without_work_computes_does_not_matter() -> None:
    """Activations near float16's end would overflow if they went through all layers twice."""
    model = dataclasses.replace(MODEL, num_layers=4)
    weights = {name: np.array(w) for name, w in random_params(model, 0).items()}
    weights["layers.mlp.down_bias"][:, 0] = 15000.0
    half = PrecisionConfig("float16", LossScaleConfig(initial=2.0**4))
    expected, found = (
        train(mesh, model, batches=tokens()[:1], weights=weights, precision=half)
        for mesh in (Mesh(accumulation=2), Mesh(pp=2, accumulation=2))
    )
    assert np.isfinite(expected.norms).all()
    assert found.norms == pytest.approx(expected.norms, rel=20 * 2.0**-11)


def test_the_dots_that_remat_keeps_are_kept_in_stages_as_well() -> None:
    """Products in the program of the gradient: those that are kept are not made again."""

    def products(pp: int, policy: str) -> int:
        sizes = whole({"pp": pp})
        rules, mesh = rules_for(sizes, 0, False), make_mesh(sizes)
        model = Model(MODEL, rules, remat=RematConfig(policy))  # type: ignore[arg-type]
        with jax.set_mesh(mesh):
            weights = abstract_params(model, rules, mesh)
            rows = jax.ShapeDtypeStruct((pp, 2, LENGTH), jnp.int32)
            ones = jax.ShapeDtypeStruct((pp, 2, LENGTH), jnp.float32)
            traced = jax.jit(jax.grad(model.loss_sum)).trace(weights, rows, rows, ones)
        return count_products(traced.jaxpr.jaxpr)

    for pp in (1, 2):
        none, dots, full = (products(pp, policy) for policy in ("none", "dots", "full"))
        assert none < dots < full  # attention's own two are made again


def count_products(jaxpr: Any) -> int:
    """In a program and all the programs inside it."""
    inside = [
        getattr(one, "jaxpr", one)
        for equation in jaxpr.eqns
        for value in equation.params.values()
        for one in (value if isinstance(value, (tuple, list)) else [value])
    ]
    own = sum(equation.primitive.name == "dot_general" for equation in jaxpr.eqns)
    return own + sum(count_products(one) for one in inside if hasattr(one, "eqns"))
