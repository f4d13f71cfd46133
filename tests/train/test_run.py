"""A whole run: what it writes where, what it says, and what stops it."""

import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml

import jaxneox
from jaxneox import checkpoint
from jaxneox.config import Settings, load_yaml
from jaxneox.config.schema import CheckpointConfig
from jaxneox.data import build_tokenizer
from jaxneox.data.writer import IndexedWriter
from jaxneox.errors import UserError
from jaxneox.saver import Saver
from jaxneox.train.loop import loop
from jaxneox.train.loop.intervals import saves_at
from jaxneox.train.plan import build_plan
from jaxneox.train.run import start
from tests.train.runs import command, error, losses, metrics, succeeds, write_yaml

ONE = ("--mesh", "dp=1")
TOKENS = np.random.default_rng(0).integers(0, 256, (2, 16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that a run may write, and what it said."""
    folder = tmp_path_factory.mktemp("run")
    yaml = write_yaml(
        folder,
        eval_interval=4,
        eval_iters=2,
        keep_last_n_checkpoints=3,
        extra_save_iters=[0, 11],
        log_interval=5,
        log_dir=str(folder / "logs"),
        tensorboard_dir=str(folder / "board"),
        profile=True,
        profile_step_start=2,
        profile_step_stop=3,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "save", watched(Saver.save, folder / "saves"))
        out = succeeds(yaml, *ONE, "--save", folder / "run", "--sample", "5")
    (folder / "out.txt").write_text(out)
    return folder


def watched(save: Callable[..., None], note: Path) -> Callable[..., None]:
    """Notes, as a checkpoint is made, how many steps are in metrics.jsonl."""

    def save_and_note(saver: Saver, step: int, *args: Any) -> None:
        with note.open("a") as file:
            print(step, len(metrics(saver.run)), file=file)
        save(saver, step, *args)

    return save_and_note


@pytest.mark.slow
def test_metrics_hold_each_step_and_evaluation(folder: Path) -> None:
    rows = metrics(folder / "run")
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["step"] for row in rows if "valid_loss" in row] == [4, 8, 12]
    assert [row["step"] for row in rows if "test_loss" in row] == [12]
    valid = [row["valid_loss"] for row in rows if "valid_loss" in row]
    assert valid == sorted(valid, reverse=True) and 1 < rows[-1]["test_loss"] < rows[0]["loss"]
    assert {"loss", "grad_norm", "lr", "skipped", "tokens"} <= rows[0].keys()
    assert rows[0]["tokens"] == 64


@pytest.mark.slow
def test_figures_are_written_before_their_checkpoint(folder: Path) -> None:
    """Else a run that is killed after the checkpoint would never have its last step's figures."""
    notes = (folder / "saves").read_text().splitlines()
    assert notes == ["0 0", "4 4", "8 8", "11 11", "12 12"]


def test_checkpoints_are_those_that_were_asked_for(folder: Path) -> None:
    assert checkpoint.steps(folder / "run") == [8, 11, 12]
    parts = {path.name for path in (folder / "run/step_12").iterdir() if path.is_dir()}
    assert parts == {"params", "training", "meta"}


def test_what_it_says_is_there(folder: Path) -> None:
    out = (folder / "out.txt").read_text()
    named = re.findall(rf"{folder}/[\w./-]+", out)
    assert {"step_12", "loss.png", "config.yml"} <= {Path(path).name for path in named}
    assert all(Path(path).exists() for path in named)
    assert "The model writes:\n    def " in out
    lines = [line for line in out.splitlines() if line.startswith("step ")]
    assert [int(line.split()[1]) for line in lines] == [1, 4, 5, 8, 10, 12, 12, 12]
    assert (folder / "logs/train.log").read_text().splitlines() == lines
    assert list((folder / "board").glob("events.*"))
    assert list((folder / "board/plugins/profile").rglob("*.xplane.pb"))


def test_config_is_a_yaml_of_the_same_run(folder: Path) -> None:
    keys = load_yaml([folder / "run/config.yml"])
    assert keys["padded_vocab_size"] == 512 and keys["train_batch_size"] == 4
    cfg = Settings(keys).resolve(dp=1, vocab_size=None)
    assert (cfg.model.hidden_size, cfg.train.train_iters) == (32, 12)


@pytest.mark.parametrize(
    ("cfg", "steps"),
    [
        (CheckpointConfig(every=4), [4, 8, 12]),
        (CheckpointConfig(every=2, scale="log"), [1, 2, 4, 8]),
        (CheckpointConfig(every=5, extra_iters=(0, 3)), [0, 3, 5, 10]),
        (CheckpointConfig(), []),
    ],
)
def test_saves_at(cfg: CheckpointConfig, steps: list[int]) -> None:
    assert [step for step in range(13) if saves_at(step, cfg)] == steps


@pytest.mark.slow
def test_step_0_is_saved_once(tmp_path: Path) -> None:
    """A run that was killed right after it goes on from step 0."""
    save = (write_yaml(tmp_path), *ONE, "--save", tmp_path / "run", "--set")
    succeeds(*save, "extra-save-iters=[0]", "exit-interval=1")
    assert checkpoint.steps(tmp_path / "run") == [0, 1]
    shutil.rmtree(tmp_path / "run/step_1")
    out = succeeds(*save, "extra-save-iters=[0]", "exit-interval=2")
    assert "stopped at step 2 of 12, saved" in out
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1, 2]


@pytest.mark.slow
def test_load_gives_the_function_of_the_training_state(folder: Path, tmp_path: Path) -> None:
    place = checkpoint.find(folder / "run", 8)
    keys = checkpoint.read_keys(place) | {"save": str(tmp_path / "run"), "load": str(place.folder)}
    for key in ("log_dir", "tensorboard_dir", "profile", "extra_save_iters"):
        del keys[key]
    cfg = Settings(keys).resolve(dp=1, vocab_size=None)
    run = start(build_plan(cfg, {"dp": 1, "tp": 1}), build_tokenizer(cfg.tokenizer))
    assert loop.train(run) and run.step == 12
    with jax.set_mesh(run.mesh):
        expected = np.asarray(run.plan.model.logits(run.state.params, jax.numpy.asarray(TOKENS)))
    loaded = jaxneox.load(tmp_path / "run")
    logits = loaded(TOKENS)
    assert (logits.shape, logits.dtype) == ((2, 16, 512), np.float32)
    # one program is compiled as a whole and the other runs operation by operation
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6)
    for name, w in run.state.params.items():
        np.testing.assert_array_equal(loaded.params[name], w)
    assert loaded.config.model == cfg.model


@pytest.mark.slow
def test_load_finds_runs_steps_and_copies(folder: Path, tmp_path: Path) -> None:
    run = folder / "run"
    shutil.copytree(run / "step_8", tmp_path / "step_8")
    eight = np.asarray(jaxneox.load(run / "step_8")(TOKENS))
    for loaded in (jaxneox.load(run, step=8), jaxneox.load(tmp_path / "step_8")):
        np.testing.assert_array_equal(loaded(TOKENS), eight)
    mesh = jaxneox.load(run / "step_8", mesh="dp=2,tp=2")(TOKENS)
    np.testing.assert_allclose(mesh, eight, rtol=0, atol=2e-6)
    tokenizer = jaxneox.load(run).tokenizer
    assert tokenizer is not None and tokenizer.decode(tokenizer.encode("fox")) == "fox"
    assert np.abs(np.asarray(jaxneox.load(run)(TOKENS)) - eight).max() > 1e-3
    for path, step, said in (
        (run, 9, r"no checkpoint of step 9; there are \[8, 11, 12\]"),
        (run / "step_8", 11, "is not the checkpoint of step 11"),
        (run / "step_9", None, r"does not exist; expected a run with step_N folders"),
        (folder, None, "holds no whole checkpoint"),
    ):
        with pytest.raises(UserError, match=said):
            jaxneox.load(path, step=step)


def test_a_step_that_was_copied_alone_goes_on(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "run/step_11", tmp_path / "step_11")
    unset = ("log-dir=null", "tensorboard-dir=null", "profile=false")
    succeeds(tmp_path / "step_11", *ONE, "--save", tmp_path / "run", "--set", *unset)
    assert metrics(tmp_path / "run") == metrics(folder / "run")[11:]


@pytest.mark.slow
def test_weights_alone_can_be_loaded_and_finetuned_but_not_continued(tmp_path: Path) -> None:
    run = tmp_path / "run"
    out = succeeds(
        *(write_yaml(tmp_path), *ONE, "--save", run, "--set"),
        *("no-save-optim=true", "exit-interval=4", "train-iters=6"),
    )
    assert "stopped at step 4 of 6, saved" in out
    assert not (run / "step_4/training").exists()
    assert "holds weights alone (no-save-optim); start from them with --finetune" in error(
        run, *ONE
    )
    assert jaxneox.load(run)(TOKENS).shape == (2, 16, 512)


@pytest.mark.slow
def test_a_run_that_diverges_stops_and_keeps_its_good_checkpoints(
    folder: Path, tmp_path: Path
) -> None:
    """Steps are skipped from the second on: their checkpoints would push out all the others."""
    unset = ("log-dir=null", "tensorboard-dir=null", "profile=false", "keep-last-n-checkpoints=2")
    line = error(
        *(folder / "run/step_8", *ONE, "--save", tmp_path / "run", "--set", *unset),
        *("lr=1e10", "checkpoint-factor=1", "train-iters=60", "extra-save-iters=null"),
    )
    assert re.match(
        r"step \d+: 10 steps in a row had a loss or a gradient that is not finite", line
    )
    assert "smaller learning rate" in line
    rows = metrics(tmp_path / "run")
    good = [row["step"] for row in rows if not row["streak"]]
    assert good == [row["step"] for row in rows if "first_sample" not in row]
    first = 4 * (rows[-1]["step"] - 1)
    assert (rows[-1]["first_sample"], rows[-1]["last_sample"]) == (first, first + 3)
    assert f"(loss nan of samples {first} to {first + 3})" in line
    assert rows[-1]["streak"] == 10 and rows[-1]["loss"] is None
    assert checkpoint.steps(tmp_path / "run") == good[-2:]


def test_a_fault_in_the_data_saves_what_was_learned(tmp_path: Path) -> None:
    """One token outside the vocabulary; the run reaches it after a few steps."""
    tokens = np.arange(17 * 40) % 256
    tokens[17 * 9] = 600
    with IndexedWriter(tmp_path / "data", np.uint16) as out:
        out.add(tokens)
    start = (write_yaml(tmp_path, split="1,0,0"), *ONE, "--save", tmp_path / "run")
    line = error(*start, "--set", f"data-path={tmp_path / 'data'}")
    assert "is 600, outside the vocabulary of 512" in line
    (*_, step) = checkpoint.steps(tmp_path / "run")
    assert step not in (0, 4, 8, 12) and len(metrics(tmp_path / "run")) == step


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writes beyond it fail, as they do on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    run = tmp_path / "run"
    start = (write_yaml(tmp_path), *ONE, "--save", run)
    succeeds(*start, "--set", "exit-interval=5")
    with largest_file(50_000):
        line = error(*start)
    assert f"{run}: a checkpoint could not be written" in line
    assert "step 5 is whole. Free some space" in line
    assert checkpoint.steps(run) == [4, 5]
    assert np.isfinite(jaxneox.load(run)(TOKENS)).all()
    assert "continuing at step 5 of 12" in succeeds(*start)
    assert [row["step"] for row in metrics(run)] == list(range(1, 13))
    assert not list(run.glob("*tmp*"))


@pytest.mark.slow
@pytest.mark.parametrize("item", ["params", "training", "meta"])
def test_a_damaged_checkpoint_names_the_one_before(folder: Path, item: str, tmp_path: Path) -> None:
    for step in (11, 12):
        shutil.copytree(folder / f"run/step_{step}", tmp_path / f"run/step_{step}")
    for path in (tmp_path / "run/step_12" / item).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    keys = yaml.safe_load((folder / "run/config.yml").read_text())
    (tmp_path / "run/config.yml").write_text(yaml.safe_dump(keys | {"profile": False}))
    named = (tmp_path / "run/step_12", *ONE, "--save", tmp_path / "other")
    line = error(*named, "--set", "train-iters=14")
    assert line.startswith(f"{tmp_path}/run/step_12: the checkpoint cannot be read (")
    assert line.endswith("move it away to go on from step_11")
    unset = ("log-dir=null", "tensorboard-dir=null")
    outcome = command(tmp_path / "run", *ONE, "--set", *unset)
    assert outcome.code == 0
    assert f"now {tmp_path}/run/corrupt_step_12, and the run goes on from step 11" in outcome.err
    assert outcome.err.startswith("warning: ") and len(outcome.err.splitlines()) == 1
    assert losses(tmp_path / "run") == losses(folder / "run")[11:]
    assert checkpoint.steps(tmp_path / "run") == [11, 12]
