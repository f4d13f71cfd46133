"""Mixtures of experts on any mesh against one device, and what they send."""

import dataclasses
from functools import cache

import jax
import pytest

from jaxneox.config.schema import ExpertsConfig, ModelConfig, ObjectiveConfig, RematConfig
from jaxneox.errors import UserError
from jaxneox.hlo.collectives import collectives
from jaxneox.parallel.divides import check_divides
from jaxneox.parallel.mesh import parse_mesh, replicas, whole
from jaxneox.parallel.rules import P, rules_for
from jaxneox.train.dry_run.program import compile_step
from jaxneox.train.plan import build_plan, check_experts
from tests.parallel.cases import GRADIENT, LOSS, PARAMETER
from tests.parallel.meshes import MODEL, Mesh, Outcome, apart, config, tokens, train

TOPK = ExpertsConfig(4, 24, top_k=2, router="topk", jitter=0.1, balance_loss=0.1, z_loss=0.01)
GATED = ExpertsConfig(
    4, 24, top_k=2, router="sinkhorn", gated=True, activation="silu", shared=1,
    balance_loss=0.1, capacity_factor=1.0,
)  # fmt: skip
MIXED = dataclasses.replace(
    MODEL, num_layers=4, experts=TOPK, pattern=("experts", "dense"), parallel_residual=False
)
MODELS = {
    "topk": MIXED,
    "gated": dataclasses.replace(
        MIXED, experts=GATED, pattern=("experts",), num_layers=2, parallel_residual=True
    ),
}
CASES = [
    ("topk", Mesh(dp=2, ep=2, tp=2)),
    ("topk", Mesh(dp=2, ep=2, tp=2, zero=3, sequence=True, accumulation=2)),
    ("topk", Mesh(pp=2, ep=2, tp=2, zero=1, accumulation=2)),
    ("topk", Mesh(ep=4, cp=2, zero=2)),
    ("gated", Mesh(dp=2, tp=2)),
    ("gated", Mesh(ep=2, cp=2, attention="ring")),
    ("gated", Mesh(pp=2, ep=4, accumulation=2)),
]


@cache
def one_device(name: str) -> Outcome:
    return train(Mesh(), MODELS[name], batches=tokens()[:2])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mesh"), CASES, ids=str)
def test_experts_are_the_same_on_every_mesh(name: str, mesh: Mesh) -> None:
    expected, found = one_device(name), train(mesh, MODELS[name], batches=tokens()[:2])
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    assert found.figures["experts_max_load"] == pytest.approx(expected.figures["experts_max_load"])
    worst = apart(found.grads, expected.grads)
    assert max(worst.values()) <= GRADIENT, worst
    assert max(apart(found.params, expected.params).values()) <= PARAMETER


def test_weights_and_rows_on_a_mesh_with_experts() -> None:
    sizes = whole(parse_mesh("dp=2,ep=2,tp=2"))
    assert replicas(sizes) == 4
    rules = rules_for(sizes, 1, False)
    assert rules.activation("batch", "length") == P(("dp", "ep"), "cp")
    up = ("layers.experts.up", ("layers", "experts", "embed", "mlp"), (2, 4, 32, 64))
    assert rules.parameter(*up) == P(None, "ep", None, "tp")
    assert rules.in_step(*up) == P(None, "ep", None, "tp", reduced={"dp", "cp"})
    assert rules.optimizer(*up) == P(None, "ep", "dp", "tp")
    dense = ("layers.mlp.up", ("layers", "embed", "mlp"), (2, 32, 64))
    assert rules.in_step(*dense) == P(None, None, "tp", reduced={"dp", "ep", "cp"})


def test_a_mesh_without_ep_has_no_such_axis() -> None:
    assert list(whole({"dp": 2, "ep": 1})) == ["pp", "dp", "cp", "tp"]


@pytest.mark.parametrize(
    ("model", "mesh", "message"),
    [
        (MODEL, Mesh(ep=2), "ep=2 splits the experts of a mixture.*use dp=2"),
        (MIXED, Mesh(ep=8), "ep=8 does not divide moe-num-experts 4"),
        (MIXED, Mesh(tp=16), "tp=16 does not divide .*the experts' width 24"),
    ],
)
def test_sizes_that_a_mesh_does_not_divide(model: ModelConfig, mesh: Mesh, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_divides(mesh.sizes, model, config(model, mesh).parallel, ring=False)


def test_what_training_with_experts_refuses() -> None:
    asked = config(MIXED, Mesh(), objective=ObjectiveConfig("dpo"))
    with pytest.raises(UserError, match="only pretraining adds routers' losses"):
        check_experts(asked)
    cut = dataclasses.replace(MIXED, experts=dataclasses.replace(GATED, sinkhorn_rows=3))
    with pytest.raises(UserError, match="no multiple of the 3 that"):
        check_experts(config(cut, Mesh()))


@pytest.mark.slow
def test_a_layer_sends_tokens_twice_forward_and_twice_backward() -> None:
    model = dataclasses.replace(MODELS["gated"], experts=dataclasses.replace(GATED, shared=0))
    cfg = dataclasses.replace(config(model, Mesh(ep=2)), remat=RematConfig("none"))
    plan = build_plan(cfg, Mesh(ep=2).sizes, 0)
    text = compile_step(plan, jax.devices()[:2]).program.as_text()
    sent = [one.kind for one in collectives(text)]
    assert sent.count("all-to-all") == 4  # the layers are scanned: the text holds one of them
    assert sent.count("all-gather") == 1  # of the counts
