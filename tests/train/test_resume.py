"""A run that was stopped, in whatever way, goes on bit for bit as if it had not been."""

import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from jaxneox import checkpoint
from jaxneox.train.reporting.progress import Bar
from tests.limits import PATIENCE
from tests.train.runs import (
    assert_same_run,
    command,
    error,
    losses,
    metrics,
    process,
    succeeds,
    write_yaml,
)

FP16 = {"fp16": {"enabled": True, "initial_scale_power": 20, "loss_scale_window": 3}}


class Straight(NamedTuple):
    """A run from the first step to the last without a stop, and its YAML."""

    yaml: Path
    run: Path


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    folder = tmp_path_factory.mktemp("straight")
    yaml = write_yaml(folder)
    succeeds(yaml, "--mesh", "dp=1", "--save", folder / "run")
    return Straight(yaml, folder / "run")


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """Long enough for a signal to arrive in its middle."""
    folder = tmp_path_factory.mktemp("long")
    yaml = write_yaml(folder, train_iters=250, checkpoint_factor=100, log_interval=1)
    succeeds(yaml, "--mesh", "dp=1", "--save", folder / "run")
    return Straight(yaml, folder / "run")


@pytest.mark.slow
def test_a_second_start_continues(straight: Straight, tmp_path: Path) -> None:
    """With dropout, whose noise follows the step."""
    run = tmp_path / "run"
    start = (straight.yaml, "--mesh", "dp=1", "--save", run)
    out = succeeds(*start, "--set", "exit-interval=5")
    assert f"stopped at step 5 of 12, saved in {run}; the same command continues" in out
    assert "continuing at step 5 of 12" in succeeds(*start)
    assert_same_run(run, straight.run)
    assert "nothing to do" in succeeds(*start)


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "changes"), [("dp=1", FP16), ("dp=2,tp=2", {})])
def test_loss_scale_and_mesh_continue(mesh: str, changes: dict[str, Any], tmp_path: Path) -> None:
    yaml = write_yaml(tmp_path, **changes)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    succeeds(yaml, "--mesh", mesh, "--save", whole)
    succeeds(yaml, "--mesh", mesh, "--save", parts, "--set", "exit-interval=7")
    assert metrics(parts) == metrics(whole)[:7]
    succeeds(parts, "--mesh", mesh, "--set", "exit-interval=null")
    assert_same_run(parts, whole)
    if changes:
        scales = [row["loss_scale"] for row in metrics(whole)]
        assert len(set(scales[7:])) > 1, "the scale must move after the stop as well"


def test_another_mesh_continues(straight: Straight, tmp_path: Path) -> None:
    """Only the order of additions differs, by a float32's precision a step."""
    run = tmp_path / "run"
    succeeds(straight.run / "step_4", "--mesh", "dp=2,tp=2", "--save", run)
    assert [row["step"] for row in metrics(run)] == list(range(5, 13))
    np.testing.assert_allclose(losses(run), losses(straight.run)[4:], rtol=1e-6)


@pytest.mark.slow
def test_sigterm_saves_and_exits(long_run: Straight, tmp_path: Path) -> None:
    run = tmp_path / "run"
    child = process(
        long_run.yaml,
        "--mesh",
        "dp=1",
        "--save",
        run,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    hold_back(child.stdout.fileno())
    head = b""
    while not re.search(rb"step +5 ", head):
        head += child.stdout.read1(64)  # type: ignore[attr-defined]
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, err) == (0, b"")
    stopped = re.search(rb"stopped at step (\d+) of 250, saved in", out)
    assert stopped is not None, out
    step = int(stopped[1])
    assert 5 <= step < 250 and checkpoint.steps(run)[-1] == step
    assert metrics(run) == metrics(long_run.run)[:step]
    succeeds(long_run.yaml, "--mesh", "dp=1", "--save", run)
    assert_same_run(run, long_run.run)


@pytest.mark.slow
def test_ctrl_c_saves_and_a_second_one_ends(
    long_run: Straight,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    show = Bar.show

    def press(self: Bar, times: int, step: int, *figures: Any) -> None:
        show(self, step, *figures)
        for _ in range(times if step == 6 else 0):
            noticed = signal.getsignal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            wait_for(lambda was=noticed: signal.getsignal(signal.SIGINT) is not was)

    # a shell starts what runs in its background with SIGINT ignored
    plain = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, plain))
    start = (long_run.yaml, "--mesh", "dp=1", "--save", tmp_path / "run")
    monkeypatch.setattr(Bar, "show", partialmethod(press, 1))
    assert re.search("stopped at step 7 of 250, saved in", succeeds(*start))
    assert metrics(tmp_path / "run") == metrics(long_run.run)[:7]
    monkeypatch.setattr(Bar, "show", partialmethod(press, 2))
    again = (long_run.yaml, "--mesh", "dp=1", "--save", tmp_path / "again")
    outcome = command(*again)
    assert outcome.code == 130
    assert outcome.err == "interrupted; what was saved before is whole\n"
    assert checkpoint.steps(tmp_path / "again") == []


def hold_back(pipe: int) -> None:
    """With room for a page only, the child that prints each step waits for its reader."""
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)


@pytest.mark.slow
def test_kill_in_the_middle_of_a_save(long_run: Straight, tmp_path: Path) -> None:
    run, start = tmp_path / "run", ("--mesh", "dp=1", "--set", "keep-last-n-checkpoints=2")
    halves = 0
    for attempt in range(6):
        child = process(
            *(long_run.yaml, "--save", run, *start, f"checkpoint-factor={5 + attempt}"),
            stdout=subprocess.DEVNULL,
        )
        wait_for(lambda child=child: child.poll() is not None or half_written(run))
        child.send_signal(signal.SIGKILL)
        child.wait()
        whole = checkpoint.steps(run)
        halves += any(int(p.name.split(".")[0][5:]) not in whole for p in half_written(run))
        if halves == 2:
            break
    assert halves == 2, "no kill came in the middle of a save"
    assert child.returncode == -signal.SIGKILL and checkpoint.steps(run)[-1:] < [250]
    succeeds(long_run.yaml, "--mesh", "dp=1", "--save", run)
    assert_same_run(run, long_run.run)
    assert not half_written(run)


def half_written(run: Path) -> list[Path]:
    return list(run.glob("step_*.orbax-checkpoint-tmp"))


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.001)


def test_a_branch_needs_a_place_of_its_own(straight: Straight, tmp_path: Path) -> None:
    old, run = straight.run / "step_4", straight.run
    before = metrics(run)
    assert "give a folder with --save" in error(old)
    assert "would overwrite" in error(old, "--save", run, "--mesh", "dp=1")
    assert "would overwrite" in error(run, "--set", "iteration=4", "--mesh", "dp=1")
    assert "no checkpoint of step 5; there are" in error(run, "--set", "iteration=5", "--mesh=dp=1")
    assert "give one of the two" in error(run, "--load", old)
    assert metrics(run) == before and checkpoint.steps(run) == [4, 8, 12]


@pytest.mark.slow
def test_load_continues_and_finetune_begins_anew(straight: Straight, tmp_path: Path) -> None:
    yaml, mesh = straight.yaml, ("--mesh", "dp=1")
    load = (yaml, *mesh, "--load", straight.run, "--set", "iteration=8")
    succeeds(*load, "--save", tmp_path / "loaded")
    assert metrics(tmp_path / "loaded") == metrics(straight.run)[8:]
    tuned = (straight.run / "step_8", *mesh, "--finetune", "--save", tmp_path / "tuned")
    succeeds(*tuned, "--set", "train-iters=3")
    rows = metrics(tmp_path / "tuned")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0]["loss"] < 0.9 * losses(straight.run)[0], "the weights must be the trained ones"
    assert rows[0]["lr"] == metrics(straight.run)[0]["lr"]
    assert "nothing to do" in succeeds(*tuned, "--set", "train-iters=3"), "not tuned once more"
    assert "already holds a run" in error(straight.run, *mesh, "--finetune", "--save", straight.run)


@pytest.mark.slow
def test_tokens_go_on_where_the_state_is(straight: Straight, tmp_path: Path) -> None:
    """Index 0 of a file is the next step; the same file again goes on inside it."""
    tokens = np.random.default_rng(0).integers(0, 256, (12, 4, 17))
    parts = {"all": tokens, "head": tokens[:5], "tail": tokens[5:]}
    for name, part in parts.items():
        np.savez(tmp_path / f"{name}.npz", tokens=part)
    start = (straight.yaml, "--mesh", "dp=1")
    whole, run = tmp_path / "whole", tmp_path / "run"
    succeeds(*start, "--save", whole, "--tokens", tmp_path / "all.npz")
    head, tail = (("--tokens", tmp_path / f"{name}.npz") for name in ("head", "tail"))
    succeeds(*start, "--save", run, *head)
    assert metrics(run) == metrics(whole)[:5]
    assert "the last one of the --tokens file" in succeeds(*start, "--save", run, *head)
    succeeds(*start, "--save", run, *tail, "--set", "exit-interval=8")
    succeeds(*start, "--save", run, *tail)
    assert_same_run(run, whole)


def test_other_data_is_noticed(straight: Straight, tmp_path: Path) -> None:
    resume = (straight.run, "--mesh", "dp=1", "--save", straight.run, "--set", "train-iters=14")
    line = error(*resume, "seed=5", "train-batch-size=8")
    assert "seed was 1234 and is 5" in line and "global_batch was 4 and is 8" in line
    assert "--allow-data-change" in line and len(line) < 400


def test_golden_batches_of_neox_replay(shared: Path, tmp_path: Path) -> None:
    case = shared / "golden/neox/pythia_mp1"
    with np.load(case / "golden.npz") as golden:
        np.savez(tmp_path / "tokens.npz", tokens=golden["train_tokens"])
    flags = ("--mesh", "dp=1", "--tokens", tmp_path / "tokens.npz", "--save", tmp_path / "run")
    succeeds(case / "neox_config.yml", *flags, "--set", "padded-vocab-size=480")
    found = losses(tmp_path / "run")
    assert len(found) == 5 and abs(found[0] - np.log(480)) < 0.1
    assert os.path.isfile(tmp_path / "run/loss.png")
