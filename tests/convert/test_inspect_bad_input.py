"""`inspect` of what is damaged, foreign or several things: one line, status 2, nothing is run."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from convert import inspect
from tests.convert.commands import Said, run
from tests.convert.golden import find_case
from tests.convert.hf_models import LLAMA, export, write_run
from tests.convert.synthetic import Synthetic

LAYER = "layer_{:02d}-model_{:02d}-model_states.pt"


def refused(path: Path, *flags: object) -> Said:
    said = run(inspect, path, *flags)
    assert said.status == 2 and "Traceback" not in said.err, said
    assert "\n" not in said.error
    return said


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "nothing").error
    (tmp_path / "file.pt").write_bytes(b"")
    assert "is a file" in refused(tmp_path / "file.pt").error
    assert "GPT-NeoX, Hugging Face, jaxneox" in refused(tmp_path).error


def test_a_folder_of_checkpoints_names_them(tmp_path: Path) -> None:
    Synthetic().write(tmp_path / "one")
    write_run(tmp_path / "two", LLAMA)
    assert "one (GPT-NeoX), two (jaxneox)" in refused(tmp_path).error


def test_a_folder_that_is_several_things_says_so(tmp_path: Path) -> None:
    Synthetic().write(tmp_path / "a")
    write_run(tmp_path / "a", LLAMA)
    said = refused(tmp_path / "a")
    assert "GPT-NeoX (global_step7) and jaxneox (step_3)" in said.error
    assert "--kind neox|jaxneox" in said.error and not said.out
    for kind in ("neox", "jaxneox"):
        said = run(inspect, tmp_path / "a", "--kind", kind, "--json")
        assert said.status == 0 and json.loads(said.out)["kind"] == kind
    assert "no Megatron-LM checkpoint" in refused(tmp_path / "a", "--kind", "megatron").error
    (tmp_path / "a" / "config.json").write_text("{}")  # alone it is no checkpoint
    assert "Hugging Face" not in refused(tmp_path / "a").error


def test_a_runs_own_yaml_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, LLAMA)
    (tmp_path / "config.yml").write_text("")
    line = refused(tmp_path).error
    assert f"{tmp_path}/config.yml: " in line and line.endswith("restore the run's own file")


def test_missing_and_cut_off_files_are_all_named(tmp_path: Path) -> None:
    step = Synthetic(mp=2).write(tmp_path)
    (step / LAYER.format(3, 1)).unlink()
    said = refused(tmp_path)
    assert f"missing {LAYER.format(3, 1)}" in said.error
    assert "ranks       mp 2" in said.out and "step        7" in said.out
    for index in (2, 5):
        path = step / LAYER.format(index, 0)
        path.write_bytes(path.read_bytes()[:-500])
    problems = json.loads(refused(tmp_path, "--json").out)["problems"]
    assert [LAYER.format(2, 0) in problems[0], LAYER.format(5, 0) in problems[1]] == [True, True]
    assert "missing" in problems[2] and "and 2 more" in refused(tmp_path).error
    uses = json.loads(refused(tmp_path, "--json").out)["uses"]
    assert {use["possible"] for use in uses} == {False}


def test_a_contradiction_with_the_yaml_is_said(tmp_path: Path) -> None:
    step = Synthetic().write(tmp_path)
    text = (step / "configs/neox_config.yml").read_text()
    (step / "configs/neox_config.yml").write_text(text.replace("num-layers: 2", "num-layers: 3"))
    assert "num_layers is 3" in refused(tmp_path).error


def test_a_partition_that_is_missing_leaves_the_weights(tmp_path: Path) -> None:
    src = find_case("zero1_dp2_mp2").folder
    shutil.copytree(src, tmp_path / "run", copy_function=shutil.copyfile)
    name = "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    (tmp_path / "run/global_step5").chmod(0o755)
    (tmp_path / "run/global_step5" / name).unlink()
    said = refused(tmp_path / "run", "--json")
    facts = json.loads(said.out)
    assert name in said.error and facts["parameters"] == 265600
    weights, training = facts["uses"][:2]
    assert weights["possible"] and not training["possible"] and name in training["reason"]


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("kind", ["neox", "megatron", "torch_dist", "huggingface"])
def test_nothing_that_a_pickle_names_is_run(tmp_path: Path, kind: str) -> None:
    folder, mark = tmp_path / "checkpoint", tmp_path / "was run"
    folder.mkdir()
    if kind == "neox":
        Synthetic().write(folder)
        torch.save(Hostile(mark), folder / "global_step7" / LAYER.format(2, 0))
    elif kind == "megatron":
        (folder / "iter_0000001/mp_rank_00").mkdir(parents=True)
        torch.save(Hostile(mark), folder / "iter_0000001/mp_rank_00/model_optim_rng.pt")
    elif kind == "torch_dist":
        (folder / "iter_0000001").mkdir(parents=True)
        (folder / "iter_0000001/.metadata").write_bytes(pickle.dumps(Hostile(mark)))
    else:
        (folder / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
        torch.save(Hostile(mark), folder / "pytorch_model.bin")
    refused(folder)
    assert not mark.exists()


def test_weights_of_hugging_face_that_are_missing_or_cut_off(tmp_path: Path) -> None:
    folder = export(tmp_path, "--no-verify")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in refused(folder).error
    weights.unlink()
    assert "no weights" in refused(folder).error


def test_a_damaged_run_of_ours(tmp_path: Path) -> None:
    write_run(tmp_path / "run", LLAMA)
    (tmp_path / "run/step_3/meta/metadata").write_text("{")
    said = refused(tmp_path / "run", "--json")
    assert "step_3" in said.error and not json.loads(said.out)["uses"][0]["possible"]
