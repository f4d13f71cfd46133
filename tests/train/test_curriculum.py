"""Curriculum learning by the length of sequences: DeepSpeed's lengths, and a loss over them."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxneox.config.data_schema import CurriculumConfig, TrainConfig
from jaxneox.errors import UserError
from jaxneox.train.fit import with_objective
from jaxneox.train.plan import build_plan
from jaxneox.train.step.curriculum import Curriculum, difficulty
from tests.config.cases import error, run
from tests.parallel.cases import LOSS, PARAMETER
from tests.parallel.meshes import LENGTH, MODEL, STEPS, Fields, Mesh, apart, config, tokens, train
from tests.train.runs import assert_same_run, metrics, succeeds, write_yaml

LINEAR = CurriculumConfig("fixed_linear", 8, 64, total=8, multiple=8)
ROOT = CurriculumConfig("fixed_root", 5, 50, total=40, multiple=3, root=2)
DISCRETE = CurriculumConfig("fixed_discrete", 4, 32, lengths=(4, 16, 32, 8), until=(2, 5, 9))


def deepspeeds(cfg: CurriculumConfig, steps: int) -> list[int]:
    """The lengths of the first steps, by a scheduler that has a state, as DeepSpeed's does.

    Source: deepspeed/runtime/data_pipeline/curriculum_scheduler.py.
    """
    current, found = cfg.least, []
    for step in range(1, steps + 1):
        if current < cfg.most:
            if cfg.schedule == "fixed_discrete":
                current = cfg.lengths[-1]
                for length, last in zip(cfg.lengths, cfg.until, strict=False):
                    if step <= last:
                        current = length
                        break
            else:
                grown = (float(step) / cfg.total) ** (1.0 / cfg.root)
                grown = math.floor(grown * (cfg.most - cfg.least) + cfg.least)
                current = min(grown - grown % cfg.multiple, cfg.most)
        found.append(current)
    return found


@pytest.mark.parametrize("cfg", [LINEAR, ROOT, DISCRETE], ids=lambda cfg: cfg.schedule)
def test_lengths_are_those_of_deepspeeds_scheduler(cfg: CurriculumConfig) -> None:
    found = [difficulty(cfg, step) for step in range(1, 101)]
    assert found == deepspeeds(cfg, 100)
    assert found[-1] == cfg.most and found[0] < cfg.most


def test_lengths_are_those_that_neox_had(shared: Any) -> None:
    for name in ("key_curriculum_pp0", "key_curriculum_pp1"):
        with np.load(shared / f"golden/neox_posttrain/{name}/golden.npz") as arrays:
            expected = arrays["seqlens"].tolist()
        assert [difficulty(LINEAR, step) for step in range(1, len(expected) + 1)] == expected


def block(**changes: Any) -> dict[str, Any]:
    schedule = {"total_curriculum_step": 10, "difficulty_step": 8}
    keys: dict[str, Any] = {
        "enabled": True,
        "curriculum_type": "seqlen",
        "min_difficulty": 8,
        "max_difficulty": 32,
        "schedule_type": "fixed_linear",
        "schedule_config": schedule,
    }
    return {"curriculum_learning": keys | changes}


def test_the_block_in_the_yaml() -> None:
    expected = CurriculumConfig("fixed_linear", 8, 32, total=10, multiple=8)
    assert run(**block()).train.curriculum == expected
    assert run(**block(enabled=False)).train.curriculum is None
    stages = {"difficulty": [8, 16, 32], "max_step": [5, 10]}
    discrete = run(**block(schedule_type="fixed_discrete", schedule_config=stages))
    assert discrete.train.curriculum == CurriculumConfig(
        "fixed_discrete", 8, 32, lengths=(8, 16, 32), until=(5, 10)
    )


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"min_difficulty": 64}, "min_difficulty 64 is above max_difficulty 32"),
        ({"enabled": None}, "write enabled: true or false"),
        ({"schedule_type": None}, "curriculum_learning.schedule_type is missing"),
        ({"schedule_type": "fixed_root"}, "schedule_config.root_degree is missing"),
        ({"schedule_type": "custom"}, "custom is not supported: NeoX has no function for it"),
        ({"curriculum_type": "voc"}, "expected one of seqlen"),
        ({"min_difficulty": 4}, "difficulty_step 8 is above min_difficulty 4"),
        (
            {
                "schedule_type": "fixed_discrete",
                "schedule_config": {"difficulty": [8, 16], "max_step": [5, 9]},
            },
            "with one difficulty more than there are steps",
        ),
    ],
)
def test_what_is_refused(keys: dict[str, Any], says: str) -> None:
    assert says in error(**block(**keys))


def test_what_a_curriculum_does_not_go_with() -> None:
    scaling = {"type": "dynamic", "factor": 2, "original_max_position_embeddings": 16}
    assert "the angles depend" in error(**block(), pos_emb="rotary", rope_scaling=scaling)
    assert "a row is a whole text" in error(**block(), train_impl="dpo")


def test_an_objective_of_ones_own_has_other_fields() -> None:
    plan = build_plan(config(MODEL, Mesh(), train=GROWN), Mesh().sizes)
    with pytest.raises(UserError, match="an objective of one's own"):
        with_objective(plan, plan.objective)


GROWING = CurriculumConfig(
    "fixed_discrete", 3, LENGTH, lengths=(3, 4, 7, 9, 16), until=(1, 2, 3, 4)
)
GROWN = TrainConfig(STEPS, curriculum=GROWING)


def on(mesh: Mesh) -> Curriculum:
    found = build_plan(config(MODEL, mesh, train=GROWN), mesh.sizes).curriculum
    assert found is not None
    return found


def test_rows_are_cut_to_few_lengths() -> None:
    """A half, a quarter and an eighth of the row, as far as the mesh divides them."""
    assert on(Mesh()).lengths == (16, 8, 4, 2)
    assert on(Mesh(cp=4, attention="ring")).lengths == (16, 8)
    assert on(Mesh(tp=4, sequence=True)).lengths == (16, 8, 4)
    assert [on(Mesh()).length(step) for step in range(STEPS)] == [4, 4, 8, 16, 16]
    dropping = dataclasses.replace(MODEL.attention, dropout=0.1)
    model = dataclasses.replace(MODEL, attention=dropping)
    found = build_plan(config(model, Mesh(), train=GROWN), Mesh().sizes).curriculum
    assert found is not None and found.lengths == (16,), "masks depend on the length"


def shortened(mesh: Mesh) -> list[Fields]:
    """The batches of each step, as the feed cuts them; of the cut fields one depends on the other.

    The last four positions of each row are another document.
    """
    batches = []
    for step, batch in enumerate(tokens()):
        documents = np.tile((np.arange(LENGTH) >= 6).astype(np.int32) + 1, (len(batch), 1))
        weights = np.ones((len(batch), LENGTH), np.float32)
        fields = {"tokens": batch, "weights": weights, "documents": documents}
        batches.append(on(mesh).cut(fields, step))
    return batches


@pytest.mark.slow
def test_a_step_trains_on_the_first_positions_alone_on_every_mesh() -> None:
    """Rows cut to exactly d positions, one length for each step, are the formula."""
    exact = [
        {
            "tokens": batch[:, : length + 1],
            "weights": np.ones((len(batch), length), np.float32),
            "documents": np.tile((np.arange(length) >= 6).astype(np.int32) + 1, (len(batch), 1)),
        }
        for batch, length in zip(tokens(), GROWING.lengths, strict=True)
    ]
    data = dataclasses.replace(config(MODEL, Mesh()).data, separate_documents=True)
    expected = train(Mesh(), batches=exact, data=data)
    meshes = (Mesh(), Mesh(dp=2, tp=2, accumulation=2), Mesh(pp=2, accumulation=2), Mesh(cp=2))
    for mesh in meshes:
        found = train(mesh, batches=shortened(mesh), data=data)
        assert found.losses == pytest.approx(expected.losses, rel=LOSS), mesh
        assert max(apart(found.params, expected.params).values()) <= PARAMETER, mesh


@pytest.mark.slow
def test_a_run_of_whole_passes_with_a_curriculum_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path,
) -> None:
    """Both count steps: the run's, not those since it was started."""
    schedule = {"total_curriculum_step": 8, "difficulty_step": 2}
    lengths = block(min_difficulty=2, max_difficulty=16, schedule_config=schedule)
    keys = {"train_iters": None, "train_epochs": 2, "train_batch_size": 128, **lengths}
    yaml = write_yaml(tmp_path, attention_dropout=0.0, log_interval=1, **keys)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    said = succeeds(yaml, "--mesh", "dp=2", "--save", whole)
    assert "train-epochs=4   (go on)" in said
    assert "stopped at step 5" in succeeds(
        yaml, "--mesh", "dp=2", "--save", parts, "--set", "exit-interval=5"
    )
    succeeds(parts, "--mesh", "dp=2", "--set", "exit-interval=null")
    assert_same_run(parts, whole)
    rows = metrics(whole)
    cfg = CurriculumConfig("fixed_linear", 2, 16, total=8, multiple=2)
    assert [row["curriculum_seqlen"] for row in rows] == deepspeeds(cfg, len(rows))
    assert [row["tokens"] for row in rows] == [128 * row["curriculum_seqlen"] for row in rows]
