"""Parameters that are not trained: without gradient, moments and saved optimizer, on every mesh."""

import dataclasses
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from convert import to_neox
from jaxneox import checkpoint
from jaxneox.config.schema import OptimizerConfig, TrainConfig
from jaxneox.parallel.mesh import make_mesh
from jaxneox.train.dry_run.memory import memory_of
from jaxneox.train.plan import build_plan
from jaxneox.train.step.flops import flops_per_token, matrix_parameters
from jaxneox.train.step.state import state_specs
from tests.convert.commands import run
from tests.parallel.cases import GRADIENT, LOSS, PARAMETER
from tests.parallel.meshes import MODEL, STEPS, Mesh, apart, config, train
from tests.reference.parameters import random_params
from tests.train.runs import assert_same_run, error, losses, params, succeeds, write_yaml

FROZEN = TrainConfig(STEPS, trainable=("!embed.*",))
TIED = dataclasses.replace(MODEL, tied_embedding=True)
MESHES = [
    Mesh(2, 2),
    Mesh(2, 2, 1, True, 2),
    Mesh(2, 2, 2, False, 2),
    Mesh(2, 2, 3, True, 2, pp=2),
    Mesh(2, cp=2, zero=3),
]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_frozen_embeddings_on_every_mesh(mesh: Mesh) -> None:
    """A tied embedding is frozen in both of its uses."""
    for model in (MODEL, TIED) if mesh is MESHES[0] else (MODEL,):
        expected, found = train(Mesh(), model, train=FROZEN), train(mesh, model, train=FROZEN)
        assert found.losses == pytest.approx(expected.losses, rel=LOSS)
        assert found.grads.keys() == expected.grads.keys()
        assert not [name for name in found.grads if name.startswith("embed.")]
        assert max(apart(found.grads, expected.grads).values()) <= GRADIENT
        assert max(apart(found.params, expected.params).values()) <= PARAMETER
        for name, start in random_params(model, 0).items():
            moved = (found.params[name] != start).any()
            assert moved != name.startswith("embed."), name


def test_the_trained_gradients_are_those_of_a_run_that_trains_all() -> None:
    whole, part = train(Mesh(), MODEL), train(Mesh(), MODEL, train=FROZEN)
    assert part.losses[0] == whole.losses[0]
    expected = {name: g for name, g in whole.grads.items() if name in part.grads}
    # the same sums in programs that XLA may order otherwise
    assert max(apart(part.grads, expected).values()) <= GRADIENT
    norm = math.sqrt(sum(float(np.sum(np.square(g, dtype=float))) for g in part.grads.values()))
    assert part.norms[0] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_the_state_is_smaller_by_their_moments(zero: int) -> None:
    mesh = Mesh(2, 2, zero)
    plans = [
        build_plan(config(MODEL, mesh, train=each), mesh.sizes) for each in (TrainConfig(1), FROZEN)
    ]
    whole, part = (memory_of(plan, make_mesh(plan.sizes)) for plan in plans)
    frozen = plans[0].model.shapes.keys() - plans[1].trained
    assert frozen and all(name.startswith("embed.") for name in frozen)
    assert part.parameters == whole.parameters
    over = {0: 2, 1: 4, 3: 4}[zero]  # devices that split the embedding's moments
    size = 4 * sum(math.prod(plans[0].model.shapes[name]) for name in frozen)
    assert whole.optimizer - part.optimizer == 2 * size // over
    assert whole.gradients - part.gradients == size // (over if zero >= 2 else 2)
    names = [str(path) for path, _ in jax.tree_util.tree_leaves_with_path(state_specs(plans[1]))]
    assert not [name for name in names if "opt_state" in name and "'embed." in name]


@pytest.mark.parametrize("kind", ["adam", "sgd", "lion", "sm3", "adafactor", "muon"])
def test_every_optimizer(kind: str) -> None:
    """Also where a part that it treats apart is not trained at all."""
    optimizer = OptimizerConfig(kind, lr=1e-2, grad_clip=1.0)  # type: ignore[arg-type]
    for pattern in ("final_norm.*", "layers.mlp.up", "!layers.*"):
        chosen = TrainConfig(STEPS, trainable=(pattern,))
        plan = build_plan(config(MODEL, Mesh(), train=chosen, optimizer=optimizer), {})
        weights = {n: w for n, w in random_params(MODEL, 0).items() if n in plan.trained}
        state = plan.optimizer.init(weights)
        updates, _ = plan.optimizer.update(weights, state, weights)
        assert updates.keys() == plan.trained


def test_operations_of_what_is_not_trained() -> None:
    plan = build_plan(config(MODEL, Mesh()), {})
    shapes, cfg = plan.model.shapes, plan.cfg.model
    whole = flops_per_token(shapes, cfg)
    matrices = matrix_parameters(shapes, cfg)
    attention = whole - 6 * matrices
    up = math.prod(shapes["layers.mlp.up"])
    without = flops_per_token(shapes, cfg, shapes.keys() - {"layers.mlp.up"})
    assert whole - without == 2 * up
    assert flops_per_token(shapes, cfg, shapes.keys() - {"embed.tokens"}) == whole
    last = flops_per_token(shapes, cfg, {"unembed.weight"})
    assert last == 2 * matrices + 2 * math.prod(shapes["unembed.weight"]) + attention / 3


@pytest.mark.slow
def test_a_run_with_frozen_embeddings_goes_on_bit_for_bit(tmp_path: Path) -> None:
    yaml = write_yaml(tmp_path, trainable=["!embed.*"])
    out = succeeds(yaml, "--mesh", "dp=1", "--save", tmp_path / "straight")
    assert "trained)" in out.splitlines()[0]
    part = (yaml, "--mesh", "dp=1", "--save", tmp_path / "parts")
    succeeds(*part, "--set", "exit-interval=5")
    assert checkpoint.find(tmp_path / "parts").step == 5
    succeeds(*part)
    assert_same_run(tmp_path / "parts", tmp_path / "straight")
    succeeds(yaml, "--mesh", "dp=2,tp=2", "--save", tmp_path / "mesh")
    assert losses(tmp_path / "mesh") == pytest.approx(losses(tmp_path / "straight"), rel=1e-5)
    saved = checkpoint.read_shapes(checkpoint.find(tmp_path / "straight"), "training")
    assert [name for name in saved if "layers.mlp.up" in name]
    assert not [name for name in saved if ".embed." in name]
    whole = ("--save", tmp_path / "straight", "--set", "train-iters=14", "trainable=null")
    assert "its optimizer is another one" in error(yaml, "--mesh", "dp=1", *whole)
    branch = ("--load", tmp_path / "straight", "--finetune", "--save", tmp_path / "all")
    succeeds(yaml, "--mesh", "dp=1", *branch, "--set", "trainable=null")
    before, after = params(tmp_path / "straight"), params(tmp_path / "all")
    assert (before["embed.tokens"] != after["embed.tokens"]).any()
    refused = run(to_neox, tmp_path / "straight", tmp_path / "out", "--optimizer")
    assert refused.status == 2 and "has no moments of embed.tokens, which were not" in refused.error


def test_what_a_user_reads(tmp_path: Path) -> None:
    yaml = write_yaml(tmp_path, trainable=["final_norm.*"])
    dry = (yaml, "--mesh", "dp=1", "--dry-run")
    out = succeeds(*dry)
    assert ", of which 64 are trained\n" in out
    for name in ("gradients", "optimizer"):  # of 64 numbers
        assert re.search(rf"^  {name} +0\.00 MiB$", out, re.MULTILINE)
    assert "fits no parameter of this model" in error(*dry, "--set", "trainable=[x]")
    factors = "lr_factors={embed.tokens: 0.5}"
    assert "no such parameter is trained" in error(*dry, "--set", factors)
