"""What is said of the learning rate before a run, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

import jaxneox
from jaxneox import checkpoint
from jaxneox.config.schema import ScheduleConfig
from jaxneox.errors import UserError
from jaxneox.train.reporting import learning_rate as rates
from tests.train.runs import error, metrics, succeeds, write_yaml

ONE = ("--mesh", "dp=1")


@pytest.mark.parametrize(
    ("cfg", "last", "said"),
    [
        (ScheduleConfig("cosine", 1e-3, 1e-4, 400, 20.0), 400,
         "warms up to 1.0e-03 over 20 steps, then cosine to 1.0e-04 at step 400"),
        (ScheduleConfig("linear", 1e-3, 0.0, 1000, 0.0), 1000,
         "linear from 1.0e-03 to 0.0e+00 at step 1,000"),
        (ScheduleConfig("constant", 3e-4, 0.0, 10, 2.5), 10,
         "warms up to 3.0e-04 over 3 steps, then stays at 3.0e-04"),
        (ScheduleConfig("cosine", 1e-3, 1e-4, 100, 0.0), 200,
         "cosine from 1.0e-03 to 1.0e-04 at step 100, where it stays"),
        (ScheduleConfig("exponential", 1e-3, 0.0, 100, 0.0), 100,
         "exponential from 1.0e-03 to 5.0e-04 at step 100"),
        (ScheduleConfig("cosine", 1e-3, 0.0, 1000, 100.0), 51,
         "warms up to 1.0e-03 over 100 steps, then cosine to 0.0e+00 at step 1,000; this run "
         "ends at step 51, with 5.0e-04"),
    ],
)  # fmt: skip
def test_a_schedule_in_words(cfg: ScheduleConfig, last: int, said: str) -> None:
    assert rates.in_words(cfg, last) == f"learning rate: {said}"


@pytest.mark.parametrize(
    ("cfg", "first", "last", "said"),
    [
        (ScheduleConfig("linear", 1e-3, 0.0, 1, 0.01), 0, 1, "the one step .* --set warmup=0"),
        (ScheduleConfig("linear", 0.0, 0.0, 10, 0.0), 0, 10, "all 10 steps .*lr is 0"),
        (ScheduleConfig("linear", 1e-3, 0.0, 10, 0.0), 10, 20, "ended at step 10: set lr-decay-i"),
    ],
)
def test_a_run_that_would_learn_nothing(
    cfg: ScheduleConfig, first: int, last: int, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        rates.check(cfg, first, last)
    rates.check(ScheduleConfig("linear", 1e-3, 0.0, 10, 1.0), 0, 2)
    rates.check(ScheduleConfig("linear", 1e-3, 0.0, 10, 0.0), 9, 20)


@pytest.mark.slow
def test_the_one_line_and_the_refusal_at_the_start(tmp_path: Path) -> None:
    yaml = write_yaml(tmp_path, train_iters=1, warmup=0.1)
    line = error(yaml, *ONE, "--save", tmp_path / "run")
    assert "the one step of this run would have learning rate 0" in line
    assert not (tmp_path / "run").exists()
    out = succeeds(yaml, *ONE, "--save", tmp_path / "run", "--set", "warmup=0")
    assert "learning rate: linear from 1.0e-02 to 0.0e+00 at step 250; this run ends at" in out


@pytest.mark.slow
def test_the_checkpoints_schedule_is_kept_if_it_is_asked_for(tmp_path: Path) -> None:
    keys = {"lr_decay_style": "cosine", "warmup": 0.01, "min_lr": 0.001, "checkpoint_factor": 2}
    yaml, kept = write_yaml(tmp_path, **keys), {"use_checkpoint_lr_scheduler": True}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    succeeds(yaml, *ONE, "--save", whole)
    other = {"lr_decay_style": "linear", "warmup": 0.5, "lr_decay_iters": 12, "lr": 0.003}
    other["optimizer"] = {"type": "Adam"}
    for end, given in ((4, keys), (8, keys | other | kept), (12, keys | other | kept)):
        changed = write_yaml(tmp_path, **given)
        succeeds(changed, *ONE, "--save", parts, "--set", f"exit-interval={end}")
    assert [row["lr"] for row in metrics(parts)] == [row["lr"] for row in metrics(whole)]
    both = write_yaml(tmp_path, override_lr_scheduler=True, **kept)
    assert "keep one of the two" in error(both, *ONE, "--save", parts)


@pytest.mark.slow
def test_another_schedule_than_the_checkpoints_is_said(tmp_path: Path) -> None:
    keys = {"lr_decay_iters": None, "lr_decay_style": "cosine", "train_iters": 4}
    run = tmp_path / "run"
    succeeds(write_yaml(tmp_path, **keys), *ONE, "--save", run)
    out = succeeds(run, *ONE, "--set", "train-iters=6")
    assert "(lr-decay-iters was 4 and is 6, the warm-up was 0.04 and is 0.06): step 5 has" in out
    assert "to keep that schedule, --set lr-decay-iters=4" in out


def test_notes_on_a_schedule() -> None:
    cfg = ScheduleConfig("cosine", 1e-3, 1e-4, 1000, 10.0)
    assert rates.notes(cfg, None, 0, 100) == rates.notes(cfg, cfg, 50, 100) == ()
    (said,) = rates.notes(cfg, None, 0, 10)
    assert "all 10 steps lie in the warm-up of 10: the rate never reaches 1.0e-03" in said
    assert "--set lr-decay-iters=10" in said
    (said,) = rates.notes(cfg, ScheduleConfig("cosine", 2e-3, 1e-4, 1000, 10.0), 50, 100)
    assert "(lr was 0.002 and is 0.001): step 51 has 9.96e-04 where it would have had 1.99e" in said


@pytest.mark.parametrize("wrong", [np.nan, -1.0, np.inf, 1e39])
def test_a_loss_mask_of_impossible_numbers(wrong: float, tmp_path: Path) -> None:
    mask = np.ones((2, 4, 16))
    mask[1, 2, 3] = wrong
    np.savez(tmp_path / "t.npz", tokens=np.ones((2, 4, 17), np.int32), loss_mask=mask)
    line = error(write_yaml(tmp_path), *ONE, "--tokens", tmp_path / "t.npz")
    assert f"loss_mask[1, 2, 3] is {wrong}, expected the weight of a label" in line


@pytest.mark.slow
def test_a_run_without_one_finite_loss_is_no_success(tmp_path: Path) -> None:
    run = tmp_path / "run"
    yaml = write_yaml(tmp_path, checkpoint_factor=2)
    succeeds(yaml, *ONE, "--save", run, "--set", "train-iters=2")
    line = error(yaml, *ONE, "--save", run, "--set", "train-iters=6", "init-method-std=0",
                 "z-loss=1.0e38")  # fmt: skip
    assert "no loss of the 4 steps until step 6 was finite" in line
    assert checkpoint.steps(run) == [2]
    assert [row["loss"] for row in metrics(run)][2:] == [None] * 4
    assert np.isfinite(jaxneox.load(run)(np.zeros((1, 8), np.int32))).all()
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1


@pytest.mark.slow
def test_a_run_whose_every_step_is_skipped_is_no_success(tmp_path: Path) -> None:
    """The losses are numbers, the gradients at such a scale are not."""
    fp16 = ("precision=fp16", "fp16.enabled=true", "fp16.initial_scale_power=127")
    run = tmp_path / "run"
    line = error(write_yaml(tmp_path), *ONE, "--save", run, "--set", "train-iters=12", *fp16)
    assert "all 12 steps until step 12 were skipped" in line and "loss scale" in line
    out = succeeds(tmp_path / "tiny.yml", *ONE, "--save", tmp_path / "interrupted", "--set",
                   "train-iters=24", "exit-interval=12", *fp16)  # fmt: skip
    assert "stopped at step 12 of 24, amid skipped steps: not saved" in out, "it may yet succeed"
    assert any(row["loss"] for row in metrics(run))
