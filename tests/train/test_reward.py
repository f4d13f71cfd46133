"""Reward models that start from a language model's weights, or from their own."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxneox
from convert import merge_adapter
from jaxneox import checkpoint
from jaxneox.base_model import META
from jaxneox.config import Settings, load_yaml
from jaxneox.errors import UserError
from jaxneox.model.parameters import REWARD
from jaxneox.parallel.mesh import Sizes, make_mesh
from jaxneox.saver import Saver
from jaxneox.train.checkpoints.restore import initial_state
from jaxneox.train.checkpoints.resume import resume_point
from jaxneox.train.plan import TrainPlan, build_plan
from jaxneox.train.run import base_of, check_resumed, recorded
from jaxneox.train.step.state import TrainState, trained
from tests.train.runs import params, write_yaml

KEYS = {"train_impl": "rm", "padded_vocab_size": 256, "seed": 5}


def plan_of(folder: Path, sizes: Sizes | None = None, **changes: Any) -> TrainPlan:
    keys = load_yaml([write_yaml(folder, **(KEYS | changes))])
    if keys["train_impl"] == "rm":  # whose data is pairs; none is read here
        del keys["data_path"]
    cfg = Settings(keys).resolve(dp=1, vocab_size=None)
    return build_plan(cfg, sizes or {"dp": 1})


def begin(plan: TrainPlan) -> TrainState:
    """What a run starts with; as `jaxneox.train.run.start`, without data."""
    resume, base = resume_point(plan.cfg.checkpoint), base_of(plan.cfg)
    if resume is not None:
        check_resumed(resume, plan.cfg)
    mesh = make_mesh(plan.sizes)
    with jax.set_mesh(mesh):
        return initial_state(plan, mesh, resume, base)


def arrays(state: TrainState) -> dict[str, np.ndarray]:
    return {name: np.asarray(w) for name, w in jax.device_get(state.params).items()}


def save(plan: TrainPlan, state: TrainState, folder: Path) -> None:
    base = base_of(plan.cfg)
    saved = state.params if base is None else trained(plan, state.params)
    meta = {"keys": plan.cfg.keys}
    if base is not None:
        meta[META] = recorded(base, None, state)
    with jax.set_mesh(make_mesh(plan.sizes)):
        saver = Saver(folder)
        saver.save(1, saved, None, meta)
        saver.wait()
        saver.close()


@pytest.fixture(scope="module", params=[True, False], ids=["untied", "tied"])
def language(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    changes = {"no_weight_tying": request.param, "logit_bias": True, "seed": 1}
    plan = plan_of(folder, train_impl="normal", **changes)
    save(plan, begin(plan), folder / "run")
    return folder / "run"


def test_the_head_is_drawn_and_the_unembedding_left_out(
    language: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = params(language)
    plan = plan_of(tmp_path, load=str(language), finetune=True)
    found = arrays(begin(plan))
    notes = capsys.readouterr().out.splitlines()
    assert notes == [
        f"note: {language}/step_1: is a language model: the reward head is drawn from the seed, "
        "and the unembedding is left out"
    ]
    assert found.keys() == plan.model.shapes.keys()
    drawn = arrays(begin(plan_of(tmp_path)))
    for name, w in found.items():
        np.testing.assert_array_equal(w, drawn[name] if name == REWARD else known[name], name)
    assert found[REWARD].any()
    split = plan_of(tmp_path, {"dp": 2, "tp": 2}, load=str(language), finetune=True)
    for name, w in arrays(begin(split)).items():
        np.testing.assert_array_equal(w, found[name], name)


def test_a_head_that_is_there_is_taken(
    language: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = plan_of(tmp_path, load=str(language), finetune=True)
    state = begin(first)
    save(first, state, tmp_path / "reward")
    capsys.readouterr()
    again = begin(plan_of(tmp_path, load=str(tmp_path / "reward"), finetune=True, seed=6))
    assert capsys.readouterr().out == ""
    np.testing.assert_array_equal(again.params[REWARD], state.params[REWARD])
    with pytest.raises(UserError, match="is a reward model, which has no unembedding to train on"):
        begin(plan_of(tmp_path, load=str(tmp_path / "reward"), finetune=True, train_impl="normal"))


def test_training_goes_on_with_the_same_head_alone(language: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"another model: .*head is tokens there and reward here"):
        begin(plan_of(tmp_path, load=str(language)))


def test_lora_trains_the_head_as_well(language: Path, tmp_path: Path) -> None:
    """What is saved has LoRA's matrices and the head, and opens beside the language model."""
    lora = {"rank": 4, "alpha": 8, "base": str(language)}
    plan = plan_of(tmp_path, lora=lora)
    assert {name for name in plan.trained if "_lora." not in name} == {REWARD}
    state = begin(plan)
    state.params[REWARD] = state.params[REWARD] + 1.0
    save(plan, state, tmp_path / "adapter")
    assert checkpoint.read_shapes(checkpoint.find(tmp_path / "adapter")).keys() == plan.trained
    model = jaxneox.load(tmp_path / "adapter")
    for name, w in arrays(state).items():
        np.testing.assert_array_equal(model.params[name], w, name)
    loaded = {"load": str(tmp_path / "adapter"), "finetune": True}
    resumed = plan_of(tmp_path, lora=lora, seed=9, **loaded)
    for name, w in arrays(begin(resumed)).items():
        np.testing.assert_array_equal(model.params[name], w, name)
    with pytest.raises(UserError, match=f"trainable: leaves out {REWARD}, which {language} lacks"):
        begin(plan_of(tmp_path, lora=lora, trainable=["layers.*_lora.*"]))


def test_an_adapter_with_a_head_becomes_one_model(language: Path, tmp_path: Path) -> None:
    lora = {"rank": 4, "alpha": 8, "base": str(language)}
    plan = plan_of(tmp_path, lora=lora)
    save(plan, begin(plan), tmp_path / "adapter")
    with pytest.raises(SystemExit) as ended:
        merge_adapter.main([str(tmp_path / "adapter"), str(tmp_path / "merged")])
    assert ended.value.code == 0
    beside, merged = (jaxneox.load(tmp_path / name) for name in ("adapter", "merged"))
    assert merged.config.model.head == "reward" and merged.config.model.lora is None
    # B begins at zero: nothing was added
    assert merged.rewards([[1, 2, 3]]) == pytest.approx(beside.rewards([[1, 2, 3]]), rel=1e-6)
