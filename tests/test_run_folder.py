"""Paths that mean a run, whatever their names, and what is none of ours."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

import jaxneox
from jaxneox import checkpoint, damage, saver
from jaxneox.errors import UserError
from jaxneox.foreign import foreign, refuse_foreign
from jaxneox.run_folder import find, on_disk
from tests.train.runs import assert_same_run, command, error, params, succeeds, write_yaml

ONE = ("--mesh", "dp=1")
ODD = "a[b]*?{c} 100%41#é"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run` with the steps 1 to 3, under a path whose name is full of patterns."""
    made = tmp_path_factory.mktemp("places") / ODD
    made.mkdir()
    succeeds(write_yaml(made, train_iters=3, checkpoint_factor=1), *ONE, "--save", made / "run")
    return made


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed, under a plain name."""
    shutil.copytree(folder / "run", tmp_path / "run")
    return tmp_path / "run"


def resumed(run: Path) -> str:
    """What a start that goes on to step 4 says on stderr."""
    outcome = command(run, *ONE, "--set", "train-iters=4")
    assert outcome.code == 0, outcome.err
    return outcome.err


@pytest.mark.slow
def test_a_run_in_a_folder_that_looks_like_a_pattern(folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    succeeds(write_yaml(folder, train_iters=3, checkpoint_factor=1), *ONE, "--save", plain)
    assert_same_run(folder / "run", plain)
    for step in (1, 2, 3):
        assert (folder / f"run/step_{step}/params/{damage.MANIFEST}").is_file()
    jaxneox.load(folder / "run")
    succeeds(folder / "run", *ONE, "--set", "train-iters=4", "--save", tmp_path / f"{ODD}/branch")


@pytest.mark.parametrize("path", ["s3://bucket/run", "gs://b", "hdfs:/b", "memory://x"])
def test_an_address_is_refused_at_the_start(path: str, folder: Path, tmp_path: Path) -> None:
    os.chdir(tmp_path)
    start = (write_yaml(folder), *ONE)
    for words in ((*start, "--save", path), (*start, "--load", path), (path,)):
        assert f"{path}: runs and checkpoints are folders on a disk" in error(*words)
    with pytest.raises(UserError, match="folders on a disk"):
        jaxneox.load(path)
    with pytest.raises(UserError, match="folders on a disk"):
        on_disk(Path(path))
    assert not list(tmp_path.iterdir())


def test_a_backslash_is_refused_at_the_start(folder: Path, tmp_path: Path) -> None:
    line = error(write_yaml(folder), *ONE, "--save", tmp_path / "a\\b")
    assert "has a backslash in its name" in line
    assert not list(tmp_path.iterdir())


def test_what_is_no_path_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    assert "is not a path" in error(write_yaml(folder), *ONE, "--save", tmp_path / "circle")
    for path in (tmp_path / "circle", tmp_path / "a\0b"):
        with pytest.raises(UserError, match="is not a path"):
            on_disk(path)


@pytest.mark.parametrize("name", ["step_004", "step_\N{ARABIC-INDIC DIGIT FOUR}", "step_-4"])
def test_a_step_has_the_name_that_it_was_saved_with(name: str, tmp_path: Path) -> None:
    (tmp_path / name / "meta").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no whole checkpoint; expected a run with step_N"):
        find(tmp_path)


@pytest.mark.slow
def test_parts_that_were_never_made_one_are_made_one(run: Path) -> None:
    expected = params(run)
    for item in ("params", "training"):
        where = run / "step_3" / item
        (where / damage.MANIFEST).unlink()
        shutil.rmtree(where / "d")
    said = resumed(run)
    assert said.count("never made one") == 2 and "corrupt" not in said
    assert not list(run.glob("corrupt*")) and checkpoint.steps(run)[-1] == 4
    found = jaxneox.load(run, step=3).params
    assert all((found[name] == expected[name]).all() for name in expected)


@pytest.mark.slow
def test_a_save_without_its_manifest_is_no_save(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver, "literal", lambda path: path.resolve())
    line = error(write_yaml(folder, train_iters=2), *ONE, "--save", tmp_path / "exp[1]")
    assert "exp[1]/step_2/params: was saved without manifest.ocdbt" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "d/*", "ocdbt.process_0/d/*"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_truncated_files_are_proven_damage(name: str, kept: float, run: Path) -> None:
    files = list((run / "step_3/params").glob(name))
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
    assert files and damage.damaged(run / "step_3/params")
    assert "corrupt_step_3" in resumed(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EMFILE, "Too many open files"),
        ValueError("RESOURCE_EXHAUSTED: Error opening: Too many open files"),
        MemoryError("out of memory"),
        KeyError("a field of another version"),
    ],
)
def test_what_cannot_be_read_here_is_not_renamed(
    fault: Exception, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr("orbax.checkpoint.StandardCheckpointer.restore", fail)
    line = error(run, *ONE, "--set", "train-iters=4")
    assert "cannot be read (" in line and "its bytes are not damaged" in line
    assert checkpoint.steps(run) == [1, 2, 3] and not list(run.glob("corrupt*"))


def test_another_version_of_the_metadata_is_no_damage(run: Path) -> None:
    path = run / "step_3/params/_METADATA"
    path.write_text(json.dumps({"format": 99}))
    assert not damage.damaged(run / "step_3/params")


NAMES = {
    "GPT-NeoX": "global_step5/mp_rank_00_model_states.pt",
    "Hugging Face": "model-00001-of-00002.safetensors",
    "Megatron-LM": "iter_0000010/mp_rank_00/model_optim_rng.pt",
}


@pytest.mark.parametrize("kind", NAMES)
def test_other_programs_checkpoints_are_named(kind: str, folder: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / NAMES[kind]).parent.mkdir(parents=True)
    (theirs / NAMES[kind]).touch()
    start = (write_yaml(folder, train_iters=1), *ONE)
    for words in (
        (*start, "--save", theirs),
        (*start, "--save", theirs, "--load", theirs),
        (*start, "--load", theirs),
        (theirs,),
    ):
        line = error(*words)
        assert f"holds a {kind} checkpoint" in line and f"{theirs} DST`" in line
    with pytest.raises(UserError, match=str(theirs)):  # it is converted, and is no whole one
        jaxneox.load(theirs)
    inside = theirs / Path(NAMES[kind]).parent
    with pytest.raises(UserError, match=f"holds a {kind} checkpoint"):
        find(inside)
    assert [child.name for child in theirs.iterdir()] == [Path(NAMES[kind]).parts[0]]


def test_ours_is_not_foreign(folder: Path) -> None:
    assert foreign(folder / "run") is None
    refuse_foreign(folder / "run/step_3")
    keys = yaml.safe_load((folder / "run/config.yml").read_text())
    assert keys["train-iters" if "train-iters" in keys else "train_iters"] == 3


def test_a_model_without_its_weights_is_foreign_and_another_config_is_not(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="holds a Hugging Face checkpoint: convert it with"):
        refuse_foreign(tmp_path)
    (tmp_path / "config.json").write_text('{"port": 80}')
    assert foreign(tmp_path) is None


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "Free some space or save elsewhere"),
        (OSError(errno.EMFILE, "Too many open files"), "Allow more open files (ulimit -n 65536)"),
        (ValueError("x [source] os_error_code='24'"), "Allow more open files (ulimit -n 65536)"),
        (ValueError("UNKNOWN: Too many open files"), "Allow more open files (ulimit -n 65536)"),
        (OSError(errno.EROFS, "Read-only"), "Make the folder writable or save elsewhere"),
        (MemoryError(), "Free some memory"),
        (ValueError("something"), "See to that or save elsewhere"),
    ],
)
def test_each_failed_write_has_its_own_remedy(fault: Exception, words: str) -> None:
    assert damage.remedy(fault) == words
