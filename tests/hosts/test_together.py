"""Two processes with two devices each are one run: the same numbers, files written once."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from jaxneox import checkpoint
from tests.hosts.processes import Ended, Processes, kill, steps_done, together, wait_for
from tests.parallel.meshes import apart
from tests.train.runs import losses, metrics, params, succeeds, write_yaml

pytestmark = pytest.mark.slow  # two processes train

# Another number of processes or devices adds in another order: a float32's precision a step.
TOLERANCE = 1e-6
PARAMETER = 1e-4  # the matrix's 1e-5 at a learning rate ten times its own
MESH = "--mesh=dp=2,tp=2"


class Pair(NamedTuple):
    """A run of two processes, and the same by one."""

    yaml: Path
    two: Path
    one: Path
    ended: list[Ended]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    yaml = write_yaml(folder, eval_interval=6, eval_iters=2, log_dir=str(folder / "logs"))
    one = ("--save", folder / "one", "--set", f"log-dir={folder / 'other'}")
    succeeds(yaml, MESH, *one)
    words = (yaml, MESH, "--save", folder / "two", "--sample", "2")
    with Processes(2, folder, *words, program="altered", ROWS=str(folder)) as processes:
        ended = processes.wait()
    yield Pair(yaml, folder / "two", folder / "one", ended)


def test_the_same_numbers_as_one_process(pair: Pair) -> None:
    assert [end.code for end in pair.ended] == [0, 0], pair.ended
    rows, expected = metrics(pair.two), metrics(pair.one)
    assert [row["step"] for row in rows] == list(range(1, 13))
    for name in ("loss", "grad_norm", "valid_loss"):
        found = [row.get(name, 0) for row in rows]
        np.testing.assert_allclose(found, [r.get(name, 0) for r in expected], rtol=TOLERANCE)
    assert checkpoint.steps(pair.two) == checkpoint.steps(pair.one)
    assert rows[-1]["test_loss"] == pytest.approx(expected[-1]["test_loss"], rel=TOLERANCE)


def test_one_speaks(pair: Pair) -> None:
    first, second = pair.ended
    assert (first.err, second.err, second.out) == ("", "", "")
    assert "The model writes" in first.out and "Gloo" not in first.out
    log = (pair.two.parent / "logs/train.log").read_text().splitlines()
    assert log == [line for line in first.out.splitlines() if line.startswith("step ")]


def test_each_reads_its_rows_once(pair: Pair) -> None:
    """Replica 0 of dp lies in process 0, replica 1 in process 1; rows 0 and 1 are replica 0's."""
    for index, mine in enumerate(([0, 1], [2, 3])):
        lines = (pair.two.parent / f"rows.{index}").read_text().splitlines()
        read = [json.loads(line) for line in lines]
        assert all(rows == mine for _, rows in read)
        assert {step for step, _ in read} >= set(range(12))


def test_several_save_and_one_continues_on_another_mesh(pair: Pair, tmp_path: Path) -> None:
    succeeds(pair.two / "step_4", "--mesh", "dp=1", "--save", tmp_path / "run", *unlogged())
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(pair.one)[4:], rtol=TOLERANCE)


def test_one_saves_and_several_continue_on_another_mesh(pair: Pair, tmp_path: Path) -> None:
    words = (pair.one / "step_4", "--mesh=dp=4", "--save", tmp_path / "run", *unlogged())
    assert [end.code for end in together(2, tmp_path, *words)] == [0, 0]
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(pair.one)[4:], rtol=TOLERANCE)
    found, expected = params(tmp_path / "run"), params(pair.one)
    assert max(apart(found, expected).values()) <= PARAMETER


def unlogged() -> tuple[str, ...]:
    return "--set", "log-dir=null", "eval-iters=0"


LONG = ("--set", "train-iters=250", "checkpoint-factor=5", "eval-iters=0", "log-dir=null")


def test_a_signal_to_one_stops_both_at_one_step_and_a_broken_checkpoint_is_left_out(
    pair: Pair, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = (pair.yaml, MESH, "--save", run, *LONG)
    with Processes(2, tmp_path, *words) as processes:
        wait_for(lambda: steps_done(run) >= 7)
        os.kill(processes.worker(1), signal.SIGTERM)
        first, second = processes.wait()
    assert (first.code, second.code, first.err, second.err) == (0, 0, "", "")
    stopped = re.search(r"stopped at step (\d+) of 250, saved in", first.out)
    assert stopped is not None
    step = int(stopped[1])
    assert checkpoint.steps(run)[-1] == step
    before = checkpoint.steps(run)[-2]
    for path in (run / f"step_{step}/params").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-7])
    ends = together(2, tmp_path, *words, f"exit-interval={before + 5}")
    assert [end.code for end in ends] == [0, 0], ends
    assert f"now {run}/corrupt_step_{step}, and the run goes on from step {before}" in ends[0].err
    assert len(ends[0].err.splitlines()) == 1 and ends[1].err == ""
    succeeds(pair.yaml, MESH, "--save", tmp_path / "one", *LONG, f"exit-interval={before + 5}")
    np.testing.assert_allclose(losses(run), losses(tmp_path / "one"), rtol=TOLERANCE)
    assert [row["step"] for row in metrics(run)] == list(range(1, before + 6))


def test_a_killed_process_and_the_rest_start_again(pair: Pair, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = (*LONG[:1], "train-iters=12", *LONG[3:])
    with Processes(2, tmp_path, pair.yaml, MESH, "--save", run, "--restarts=3", *words) as both:
        wait_for(lambda: steps_done(run) >= 6)
        kill(both.worker(1))
        first, second = both.wait()
    assert (first.code, second.code) == (0, 0), (first, second)
    assert "process 1: ended with signal SIGKILL" in second.err
    assert "starting again, 2 more to go" in first.err and "process 1" in first.err
    assert len(first.err.splitlines()) == 2, first.err
    succeeds(pair.yaml, MESH, "--save", tmp_path / "whole", *words)
    assert [r["step"] for r in metrics(run)] == list(range(1, 13))
    np.testing.assert_allclose(losses(run), losses(tmp_path / "whole"), rtol=TOLERANCE)


def test_a_stuck_loader_is_named(pair: Pair, tmp_path: Path) -> None:
    """And nobody waits for ever."""
    words = (pair.yaml, MESH, "--save", tmp_path / "run", *LONG)
    with Processes(2, tmp_path, *words, program="altered", STUCK="1,9") as processes:
        first, second = processes.wait(90)
    assert first.code == second.code == 75
    line = r"process 1 is stuck waiting for the batch of step 10 since [\d:]+ \(2\d s ago\) while"
    assert re.match(line, first.err) and re.match(f"process 1: {line}", second.err)
    assert len(first.err.splitlines()) == len(second.err.splitlines()) == 1


def test_an_error_of_one_is_told_by_all(pair: Pair, tmp_path: Path) -> None:
    """Two different configurations: the second process says what differs, the first quotes it."""
    with Processes(2, tmp_path, pair.yaml, MESH, each=["--set", "seed=1{i}"]) as processes:
        first, second = processes.wait()
    assert (first.code, second.code) == (2, 2)
    assert second.err.startswith("process 1: error: the configuration differs from process 0's: ")
    assert "seed is 11 here and 10 there" in second.err
    assert first.err.startswith("process 1 stopped: error: the configuration differs")
