"""Which settings a search compiles, by which formulas, and which of them it takes."""

import dataclasses
import math
import re
from collections.abc import Mapping

import pytest

from jaxneox.config import Settings
from jaxneox.errors import UserError
from jaxneox.plan.best import best, short
from jaxneox.plan.planned import Planned
from jaxneox.plan.search import Candidate, Estimate, candidates, over_dp, over_tp, ranked
from jaxneox.plan.times import Links, Times
from jaxneox.train.plan import build_plan
from tests.parallel.meshes import LENGTH, MODEL, Mesh, config
from tests.plan.small import KEYS, POD

ANY = Candidate((("pp", 1), ("dp", 64), ("cp", 1), ("tp", 1)), 1, "none", False, 1)


def on_rings(sizes: Mapping[str, int]) -> Links:
    """Each mesh axis along one axis of the torus."""
    return Links(POD, sizes, {name: {0: 2} for name in sizes})


def test_candidates_divide_and_rank() -> None:
    mesh = Mesh(dp=64, tp=1)
    large = dataclasses.replace(
        MODEL,
        hidden_size=1024,
        seq_length=2048,
        num_layers=8,
        vocab_size=4096,
        attention=dataclasses.replace(MODEL.attention, num_heads=16, kv_heads=16, head_dim=64),
        mlp=dataclasses.replace(MODEL.mlp, size=4096),
    )
    cfg = config(large, mesh)
    cfg = dataclasses.replace(cfg, batch=dataclasses.replace(cfg.batch, global_size=64, micro=1))
    plan = build_plan(cfg, mesh.sizes)
    found = list(candidates(cfg, 64))
    assert len(found) == len(set(found)) > 20
    for one in found:
        assert math.prod(one.mesh.values()) == 64 and 64 % (one.mesh["dp"] * one.micro) == 0
        assert one.keys(KEYS, cfg)["train_micro_batch_size_per_gpu"] == one.micro
    for sizes in {one.sizes for one in found}:
        build_plan(cfg, dict(sizes))  # none of them is refused
    order = ranked(cfg, plan, POD, on_rings)
    assert [e.seconds for e in order] == sorted(e.seconds for e in order)
    assert order[0].candidate.mesh["tp"] <= 2  # a small model needs no splitting


def test_what_a_search_takes_links_to_send() -> None:
    """By hand, of 16 layers and P parameters in float32 over rings of 200 GB/s."""
    model, mesh, ring = dataclasses.replace(MODEL, num_layers=16), Mesh(dp=4, tp=2), 200e9
    cfg = config(model, mesh, batch=32)
    plan, links = build_plan(cfg, mesh.sizes), on_rings(mesh.sizes)

    def one(zero: int = 1, remat: str = "full", micro: int = 2) -> Candidate:
        return Candidate(tuple(mesh.sizes.items()), zero, remat, True, micro)

    each = 4 * plan.parameters / 2 * 3 / 4 / ring
    assert one().steps(cfg) == one().rounds(cfg) == 4
    assert over_dp(one(), cfg, plan, links) == pytest.approx(2 * each, rel=1e-3)  # once a step
    assert over_dp(one(micro=8), cfg, plan, links) == pytest.approx(3 * each, rel=1e-3)
    assert over_dp(one(zero=3), cfg, plan, links) == pytest.approx(4 * 3 * each, rel=1e-3)
    stream = 4 * 16 * (2 * LENGTH * model.hidden_size * 4) / 2 / ring
    times = {"none": 4, "dots": 5, "full": 5}
    for remat, expected in times.items():
        assert over_tp(one(remat=remat), cfg, links) == pytest.approx(expected * stream)
    sequential = dataclasses.replace(cfg, model=dataclasses.replace(model, parallel_residual=False))
    for remat, expected in {"none": 8, "dots": 10, "full": 11}.items():
        assert over_tp(one(remat=remat), sequential, links) == pytest.approx(expected * stream)


@pytest.mark.parametrize(("chunks", "rounds"), [(1, 8 + 3), (2, 8 + 3 / 2)])
def test_a_pipeline_sends_in_every_tick(chunks: int, rounds: float) -> None:
    """8 micro-batches over 4 stages: 11 ticks of a stage's layers, or 19 of half of them."""
    mesh = Mesh(pp=4, dp=2, tp=2, chunks=chunks)
    cfg = config(MODEL, mesh, batch=32)
    plan, links = build_plan(cfg, mesh.sizes), on_rings(mesh.sizes)
    one = Candidate(tuple(mesh.sizes.items()), 1, "none", True, 2)
    assert one.steps(cfg) == 8 and one.rounds(cfg) == rounds
    stream = 2 * LENGTH * MODEL.hidden_size * 4 / 2 / 200e9
    assert over_tp(one, cfg, links) == pytest.approx(2 * rounds * 4 * stream)  # of 8 layers 2 each
    each = 4 * plan.parameters / 8 / 2 / 200e9
    assert over_dp(one, cfg, plan, links) == pytest.approx((1 + 2 * rounds) * each, rel=1e-3)


@pytest.mark.slow
def test_a_search_leaves_out_what_does_not_fit(planned: Planned, monkeypatch, capsys) -> None:
    """The first that are compiled need more than there is, or have a kernel that lacks the mesh."""
    plan = planned.plan
    order = iter([2**40, UserError("splash has no pipeline"), 2**30, 2**31])

    def next_one(*_) -> Planned:
        size = next(order)
        if isinstance(size, UserError):
            raise size
        one = dataclasses.replace(planned, topology=POD)
        one.__dict__.update(total=size, times=Times(1.0, 0.5, 0.25, 0.25))
        return one

    monkeypatch.setattr("jaxneox.plan.best.ranked", lambda *_: [Estimate(ANY, 0, 0)] * 9)
    monkeypatch.setattr("jaxneox.plan.best.plan_of", lambda *_: (plan, []))
    monkeypatch.setattr("jaxneox.plan.best.compile_for", next_one)
    assert best(Settings({}), plan, POD, 1).total == 2**30
    said = capsys.readouterr().err
    assert said.count("needs 1,024.0 GiB of a device") == 1
    assert said.count(f"  {ANY}: splash has no pipeline\n") == 1


def test_figures_of_small_plans_are_no_zeros() -> None:
    said = [short(x) for x in (9870.3, 10.2, 9.96, 0.0317, 0)]
    assert said == ["9,870", "10", "10", "0.032", "0"]
    assert [short(x, 1) for x in (59.32, 1.04, 0.0123)] == ["59.3", "1.0", "0.012"]


def test_of_equally_fast_plans_the_smallest_is_best(planned: Planned, monkeypatch, capsys) -> None:
    """The third needs the least and is 2 % slower; the second is 0.5 % slower than the first."""
    kinds = iter([(3 * 2**30, 1.0), (2 * 2**30, 1.005), (2**30, 1.02)])

    def next_one(*_) -> Planned:
        one = dataclasses.replace(planned, topology=POD)
        size, seconds = next(kinds)
        one.__dict__.update(total=size, times=Times(seconds, 0.0, 0.0, 0.0))
        return one

    monkeypatch.setattr("jaxneox.plan.best.ranked", lambda *_: [Estimate(ANY, 0, 0)] * 9)
    monkeypatch.setattr("jaxneox.plan.best.plan_of", lambda *_: (planned.plan, []))
    monkeypatch.setattr("jaxneox.plan.best.compile_for", next_one)
    assert best(Settings({}), planned.plan, POD, 3).total == 2 * 2**30
    lines = capsys.readouterr().out.splitlines()[1:4]
    assert [re.findall(r" ([123]\.0) ", line)[0] for line in lines] == ["2.0", "3.0", "1.0"]
