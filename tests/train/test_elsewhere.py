"""A dry run of YAMLs whose tokenizer and data lie on another machine, as all of Pythia's do."""

import pathlib
from functools import partial
from typing import Any

import pytest

from jaxneox.config import Settings, load_yaml
from jaxneox.errors import UserError
from jaxneox.plan.setup import plan_of
from jaxneox.plan.topology import Topology
from jaxneox.train.session import plan_without_files
from tests.config.cases import SMALLEST
from tests.train.runs import command, write_yaml

ONE = {"pp": 1, "dp": 1, "cp": 1, "tp": 1}
ELSEWHERE = {
    "tokenizer_type": "HFTokenizer",
    "vocab_file": "/elsewhere/20B_tokenizer.json",
    "data_path": "/elsewhere/pile",
    "reset_attention_mask": True,  # by a token that is not known
}


def vocabulary_and_notes(capsys: pytest.CaptureFixture[str], **keys: Any) -> tuple[int, list[str]]:
    plan = plan_without_files(Settings(SMALLEST | ELSEWHERE | keys), ONE)
    return plan.cfg.model.vocab_size, capsys.readouterr().err.splitlines()


def test_what_is_elsewhere_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    size, (tokenizer, data) = vocabulary_and_notes(capsys)
    assert size == 50304
    assert tokenizer.startswith("note: without the tokenizer (/elsewhere/20B_tokenizer.json: no ")
    assert "50,277 tokens, those of GPT-NeoX-20B's, are assumed" in tokenizer
    assert data == "note: the data /elsewhere/pile is not here; training needs it"


def test_a_known_vocabulary_is_not_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    size, notes = vocabulary_and_notes(capsys, padded_vocab_size=640, eod_token="<end>")
    assert size == 640
    assert "without the tokenizer" in notes[0] and "assumed" not in notes[0]
    for file in (ELSEWHERE["vocab_file"], None):  # nothing that a plan needs of it
        size, notes = vocabulary_and_notes(capsys, padded_vocab_size=640, vocab_file=file)
        assert size == 640 and "without the tokenizer" in notes[0]


def test_epochs_of_data_that_is_elsewhere_cannot_be_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    epochs = {"train_epochs": 2, "train_iters": None}
    with pytest.raises(UserError, match="needs it to count the steps of train_epochs: set train_"):
        vocabulary_and_notes(capsys, **epochs)
    vocabulary_and_notes(capsys, **epochs | {"train_iters": 5})


@pytest.mark.slow
def test_data_that_is_here_is_not_noted(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.idx").touch()
    here = [f"{tmp_path}/a.txt", f"{tmp_path}/b", f"{tmp_path}/b.bin", str(tmp_path), "s3://x/y"]
    for path in [*here, "builtin:stdlib"]:
        _, notes = vocabulary_and_notes(capsys, data_path=path)
        assert len(notes) == 1, path
    paths = [*here, "/elsewhere/c"]
    lists = {f"{split}_data_paths": paths for split in ("train", "valid", "test")}
    _, notes = vocabulary_and_notes(capsys, data_path=None, **lists)
    assert notes[1:] == ["note: the data /elsewhere/c is not here; training needs it"]
    blend = f"0.3 {tmp_path}/b 0.7 /elsewhere/d"
    _, notes = vocabulary_and_notes(capsys, data_path=blend, order="megatron")
    assert notes[1:] == ["note: the data /elsewhere/d is not here; training needs it"]
    lists["train_label_data_paths"] = ["/elsewhere/e", *paths[1:]]
    _, notes = vocabulary_and_notes(capsys, data_path=None, **lists)
    expected = "note: the data /elsewhere/c and 1 more are not here; training needs them"
    assert notes[1:] == [expected]


def test_a_tokenizer_that_is_here_must_be_one(tmp_path: pathlib.Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    broken = {"vocab_file": str(tmp_path / "tokenizer.json")}
    for keys in (broken, {"vocab_file": None}):
        settings = Settings(SMALLEST | ELSEWHERE | keys)
        one_cpu = Topology("cpu", (1,))
        for plan in (plan_without_files, partial(plan_of, topology=one_cpu)):
            with pytest.raises(UserError, match=r"vocab-file|not a tokenizer\.json"):
                plan(settings, ONE)


def test_pythias_yamls(shared: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = sorted((shared / "data/pythia_configs/70M").glob("*.yml"))
    assert paths
    for path in paths:
        plan = plan_without_files(Settings(load_yaml([path])), ONE)
        assert plan.parameters == 70_426_624, path
        assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.slow
def test_the_command(tmp_path: pathlib.Path) -> None:
    yml = write_yaml(tmp_path)
    vocabulary = ("padded-vocab-size=null", "vocab-file=/elsewhere/vocab.json")
    kind = ("tokenizer-type=HFTokenizer", "data-path=/elsewhere/pile")
    status, out, err = command(yml, "--mesh", "dp=1", "--dry-run", "--set", *vocabulary, *kind)
    assert status == 0 and "model.vocab_size" in out and len(err.splitlines()) == 2
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".yml", ".jsonl")]
