"""Two runs never save in one folder, and nothing that has ended is in the way."""

import fcntl
import json
import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path

import pytest

import jaxneox
from jaxneox import checkpoint
from jaxneox.errors import UserError
from jaxneox.train.checkpoints import lock
from jaxneox.train.checkpoints.lock import locked
from tests.train.runs import error, succeeds, write_yaml

FORK = multiprocessing.get_context("fork")
ONE = ("--mesh", "dp=1")
pytestmark = pytest.mark.filterwarnings("ignore:os.fork")  # these children ask jax for nothing


def hold(run: Path, held: "multiprocessing.synchronize.Event") -> None:
    with locked(run):
        held.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds `tmp_path/run`."""
    held = FORK.Event()
    child = FORK.Process(target=hold, args=(tmp_path / "run", held))
    child.start()
    assert held.wait(30)
    yield child
    child.kill()
    child.join()


def test_a_folder_in_use_is_refused_and_named(holder: FORK.Process, tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = error(write_yaml(tmp_path, train_iters=1), *ONE, "--save", run)
    assert f"{run}: is in use by process {holder.pid} on {socket.gethostname()} since 20" in line
    assert [path.name for path in run.iterdir()] == [lock.NAME]


def test_kill_9_leaves_no_obstacle(holder: FORK.Process, tmp_path: Path) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    with locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / lock.NAME).read_text())["process"] == os.getpid()
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


@pytest.mark.slow
def test_what_is_only_read_is_not_locked(tmp_path: Path) -> None:
    run, yaml = tmp_path / "run", write_yaml(tmp_path, train_iters=2)
    succeeds(yaml, *ONE, "--save", run)
    assert lock.NAME not in os.listdir(run)
    with locked(run):
        jaxneox.load(run)
        succeeds(yaml, *ONE, "--load", run, "--save", tmp_path / "x", "--set", "train-iters=3")
        assert "is in use" in error(run, *ONE, "--set", "train-iters=3")
    assert checkpoint.steps(run) == [2] and checkpoint.steps(tmp_path / "x") == [3]


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError), locked(tmp_path / "a/b"):
        assert (tmp_path / "a/b" / lock.NAME).is_file()
        raise UserError("no data")
    assert not (tmp_path / "a").exists()


def test_a_child_does_not_hold_it_on(tmp_path: Path) -> None:
    """A forked child has the same open file, and may live longer."""
    with locked(tmp_path / "run"):
        child = FORK.Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with locked(tmp_path / "run"):
            pass
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize(
    ("host", "process", "free"),
    [("elsewhere", 1, False), (None, None, False), (None, 2**22 + 1, True)],
    ids=["elsewhere", "this one", "one that has ended"],
)
def test_without_flock_what_the_file_says_decides(
    host: str | None,
    process: int | None,
    free: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    process = process or os.getpid()
    said = {"host": host or socket.gethostname(), "process": process, "since": "then"}
    (tmp_path / lock.NAME).write_text(json.dumps(said))
    if free:
        with locked(tmp_path):
            pass
        assert not (tmp_path / lock.NAME).exists()
        return
    with (
        pytest.raises(UserError, match=f"process {process} on .* since then.*remove"),
        locked(tmp_path),
    ):
        pass
