"""`inspect` against what is true of checkpoints that real programs wrote, and of our own."""

import json
import shlex
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from convert import from_neox, inspect
from convert.inspection import neox_drift
from convert.inspection.screen import size
from jaxneox.cli import COMMANDS
from jaxneox.console.hints import command, program
from tests.convert.commands import call, run
from tests.convert.golden import BFLOAT16, FLOAT32, find_case
from tests.convert.hf_models import GPT2, LLAMA, change_config, export, write_run
from tests.convert.synthetic import Synthetic

Facts = dict[str, Any]


def facts_of(*argv: Any) -> Facts:
    return json.loads(call(inspect, *argv, "--json").out)


def why(facts: Facts, word: str) -> str | None:
    """The reason against the command that has the word in it; None where it is possible."""
    (use,) = [use for use in facts["uses"] if word in use["command"]]
    assert use["possible"] == (use["reason"] is None)
    return use["reason"]


def true_of(name: str) -> tuple[Path, Facts]:
    folder = find_case(name).folder
    if not (folder / "case.json").is_file():
        pytest.skip("the case's description is only where JAXNEOX_SHARED is")
    return folder, json.loads((folder / "case.json").read_text())


@pytest.mark.parametrize("name", FLOAT32 + BFLOAT16)
def test_what_neox_wrote_is_described_as_it_is(name: str) -> None:
    folder, case = true_of(name)
    facts = facts_of(folder)
    sequential = case["engine"] == "DeepSpeedEngine"
    assert facts["kind"] == "neox" and facts["step"] == 5 and facts["steps"] == [5]
    assert facts["layout"] == ("sequential" if sequential else "pipeline")
    pp = 0 if sequential else case["pp"]
    assert facts["parallel"] == {"tp": case["mp"], "pp": pp, "dp": case["dp"]}
    assert facts["parameters"] == case["merged_param_count"]
    dtype = "bfloat16" if case["precision"] == "bfloat16" else "float32"
    assert facts["dtypes"] == {dtype: case["merged_param_count"]}
    assert facts["architecture"]["vocabulary"] == case["padded_vocab_size"]
    assert ("2023" in facts["generation"]) == name.startswith("legacy")
    optimizer = facts["optimizer"]
    assert (optimizer["name"], optimizer["updates"]) == ("Adam", 5)
    assert optimizer["zero_stage"] == case["zero_stage"]
    assert optimizer["partitions"] == (case["dp"] if case["zero_stage"] else 0)
    assert optimizer["master_weights"] == ("float32" if case["zero_stage"] else None)
    total = sum(p.stat().st_size for p in folder.glob("global_step5/**/*") if p.is_file())
    assert sum(facts["bytes"].values()) == total and facts["problems"] == []
    one = facts["parameters"] * (2 if dtype == "bfloat16" else 4)
    assert one <= facts["bytes"]["weights"] < 1.4 * one
    assert facts["bytes"]["optimizer"] >= 2 * 4 * facts["parameters"]
    assert why(facts, "--optimizer") is None


@pytest.mark.parametrize("name", FLOAT32)
def test_copies_are_known_by_their_names(name: str) -> None:
    _, case = true_of(name)
    for full, tensor in case["rank0_params"].items():
        rest = full.removeprefix("sequential.").removeprefix("tied_modules.embed.")
        own = rest.partition(".")[2] if rest.partition(".")[0].isdecimal() else rest
        for old, new in (("dense_h_to_4h", "linear1"), ("dense_4h_to_h", "linear2")):
            own = own.replace(old, new)
        replicated = tensor["replicated"] and case["mp"] > 1
        assert neox_drift.is_copy(own) == replicated or case["mp"] == 1, full


@pytest.mark.parametrize("name", ["pythia_mp2_drift", "seqres_mp2"])
def test_drift_is_what_torch_finds(name: str) -> None:
    folder = find_case(name).folder
    largest, where, differing = 0.0, None, 0
    for path in sorted(folder.glob("global_step5/layer_*-model_00-*.pt")):
        other = torch.load(str(path).replace("model_00", "model_01"), weights_only=True)
        for key, tensor in torch.load(path, weights_only=True).items():
            if "norm" in key or key in ("attention.dense.bias", "mlp.linear2.bias"):
                apart = (tensor.double() - other[key].double()).abs().max().item()
                differing += apart > 0
                if apart > largest:
                    largest, where = apart, (key, int(path.name[6:8]) - 2)
    drift = facts_of(folder)["drift"]
    assert drift["largest"] == largest and drift["differing"] == differing
    assert where is None or (drift["tensor"], drift["layer"]) == where
    assert (largest > 0) == ("drift" in name)


@pytest.mark.parametrize("name", ["trained_mp2", "trained_mp2_drift"])
def test_weights_alone_of_a_longer_training(shared: Path, name: str) -> None:
    facts = facts_of(shared / "golden" / "neox_trained" / name)
    assert (facts["step"], facts["optimizer"]) == (2400, None)
    assert facts["parallel"]["tp"] == 2 and facts["parallel"]["dp"] is None
    assert 4.1e6 < facts["parameters"] < 4.3e6
    assert (facts["drift"]["differing"] == 0) == (name == "trained_mp2")
    assert (why(facts, "to-hf") is None) == (name == "trained_mp2")


def test_drift_is_left_alone_where_there_is_much_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Synthetic(drift=("norm",)).write(tmp_path)
    monkeypatch.setattr(neox_drift, "MOST", 1000)
    facts = facts_of(tmp_path)
    assert facts["drift"] is None and "--drift" in " ".join(facts["notes"])
    assert facts_of(tmp_path, "--drift")["drift"]["differing"] == 10


def test_copies_that_are_no_numbers_are_the_largest_drift(tmp_path: Path) -> None:
    step = Synthetic(drift=("norm",)).write(tmp_path)
    path = step / "layer_02-model_01-model_states.pt"
    tensors = torch.load(path, weights_only=True)
    tensors["input_layernorm.bias"][3] = float("nan")
    torch.save(tensors, path)
    said = run(inspect, tmp_path, "--json")
    drift = json.loads(said.out)["drift"]
    assert said.status == 2 and "layer 0, input_layernorm.bias, rank 1: 1 of 32" in said.error
    assert (drift["largest"], drift["tensor"]) == (None, "input_layernorm.bias")
    assert "the largest difference is nan" in " ".join(run(inspect, tmp_path).out.split())


def test_steps_are_chosen_and_named(tmp_path: Path) -> None:
    for step in (3, 12, 7):
        Synthetic(step=step).write(tmp_path / str(step))
        shutil.move(tmp_path / str(step) / f"global_step{step}", tmp_path)
    (tmp_path / "latest").write_text("global_step7")
    facts = facts_of(tmp_path)
    assert (facts["step"], facts["steps"]) == (7, [3, 7, 12])
    assert facts_of(tmp_path, "--step", 12)["step"] == 12
    assert facts_of(tmp_path / "global_step3")["steps"] == [3, 7, 12]
    assert "also there: 3, 12" in call(inspect, tmp_path).out
    assert "there are: 3, 7, 12" in run(inspect, tmp_path, "--step", 8).error


def test_without_a_yaml_the_tensors_speak(tmp_path: Path) -> None:
    step = Synthetic(drift=("norm",)).write(tmp_path)
    yaml = shutil.move(tmp_path / "neox_config.yml", tmp_path.parent / "given.yml")
    shutil.rmtree(step / "configs")
    facts = facts_of(tmp_path)
    assert facts["architecture"]["layers"] == 2 and facts["architecture"]["hidden"] == 32
    assert facts["architecture"]["heads"] is None and facts["drift"]["differing"] == 10
    assert facts["architecture"]["tied"] is False and facts["architecture"]["vocabulary"] == 64
    assert "--config" in (why(facts, f"{tmp_path} DST --optimizer") or "")
    whole = facts_of(tmp_path, "--config", yaml)
    assert whole["architecture"]["heads"] == 4
    assert whole["parameters"] == facts["parameters"]
    assert any(str(yaml) in use["command"] for use in whole["uses"])
    for rank in (0, 1):
        (step / f"layer_00-model_0{rank}-model_states.pt").unlink()
    assert "word_embeddings" in run(inspect, tmp_path).error


def test_without_an_optimizer_the_weights_convert(tmp_path: Path) -> None:
    facts = facts_of(Synthetic().write(tmp_path))
    assert facts["optimizer"] is None
    assert "hold no optimizer" in (why(facts, "--optimizer") or "")
    assert next(use["command"] for use in facts["uses"] if use["possible"]).endswith("DST")


def test_what_cannot_be_is_said_with_the_reason(tmp_path: Path) -> None:
    facts = facts_of(Synthetic(keys={"pos-emb": "alibi"}).write(tmp_path / "alibi"))
    assert "alibi" in (why(facts, "to-hf") or "")
    assert "parallel residual" in (why(facts, "to-megatron") or "")
    assert why(facts, "to-neox") is None
    write_run(tmp_path / "gpt2", GPT2)
    assert why(facts_of(tmp_path / "gpt2"), "to-megatron") is None


@pytest.mark.parametrize("keys", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_a_run_of_ours(tmp_path: Path, keys: Facts) -> None:
    model, params = write_run(tmp_path / "run", keys)
    write_run(tmp_path / "run", keys, step=5)
    facts = facts_of(tmp_path / "run", "--step", 3)
    assert (facts["kind"], facts["step"], facts["steps"]) == ("jaxneox", 3, [3, 5])
    assert facts["parameters"] == sum(x.size for x in params.values())
    assert facts["dtypes"] == {"float32": facts["parameters"]}
    shape = facts["architecture"]
    assert (shape["layers"], shape["groups"]) == (model.num_layers, model.attention.kv_heads)
    assert (shape["tied"], shape["mlp_width"]) == (model.tied_embedding, model.mlp.size)
    assert facts["optimizer"] is None and "--finetune" in (why(facts, "FILE.npz --save") or "")
    total = sum(p.stat().st_size for p in (tmp_path / "run/step_3").rglob("*") if p.is_file())
    assert sum(facts["bytes"].values()) == total


def test_a_run_of_ours_that_goes_on(tmp_path: Path) -> None:
    src, dst = find_case("pythia_mp2_drift", optimizer=True).folder, tmp_path / "run"
    call(from_neox, src, dst, "--optimizer", "--no-verify")
    facts = facts_of(dst)
    assert facts["generation"].startswith("converted from GPT-NeoX")
    assert (facts["optimizer"]["name"], facts["optimizer"]["updates"]) == ("Adam", 5)
    assert facts["optimizer"]["loss_scale"] is None
    assert facts["bytes"]["optimizer"] > 2 * 4 * facts["parameters"]
    assert why(facts, f"train {dst} --finetune") is None
    assert (
        facts["uses"][0]["command"].startswith(command("train", dst))
        and facts["uses"][0]["possible"]
    )


def test_a_folder_of_hugging_face(tmp_path: Path) -> None:
    folder = export(tmp_path, "--no-verify")
    facts = facts_of(folder)
    assert (facts["kind"], facts["layout"]) == ("huggingface", "safetensors")
    assert facts["parameters"] == facts_of(tmp_path / "run")["parameters"]
    assert facts["architecture"]["groups"] == 2 and "Llama" in facts["generation"]
    weights = (folder / "model.safetensors").stat().st_size
    assert facts["bytes"]["weights"] == weights
    change_config(folder, architectures=["BertModel"], model_type="bert")
    said = run(inspect, folder, "--json")
    assert said.status == 2 and "BertModel" in said.error
    facts = json.loads(said.out)
    assert facts["parameters"] and facts["architecture"] is None
    assert why(facts, "from-hf") == facts["problems"][0]


def test_every_command_that_is_named_is_one(tmp_path: Path) -> None:
    """Each parses as it stands, with a path that a shell has to quote."""
    folder = tmp_path / "a run; of 'mine'"
    Synthetic(step=7).write(folder)
    hf = export(tmp_path, "--no-verify")
    yml = folder / "neox_config.yml"
    found = [*facts_of(folder, "--step", 7, "--config", yml)["uses"], *facts_of(hf)["uses"]]
    ours = Path(shutil.move(tmp_path / "run", tmp_path / "run 2"))
    found += facts_of(ours)["uses"]
    seen = set()
    for use in found:
        if "jaxneox.load" in use["command"]:
            continue
        words = use["command"].removeprefix(f"{program()} ")
        (known,) = [one for one in COMMANDS if f"{words} ".startswith(f"{one.words} ")]
        args = (
            import_module(known.module)
            .parser()
            .parse_args(shlex.split(words.removeprefix(known.words)))
        )
        seen.add(known.words)
        if known.words != "train":
            paths = (folder / "global_step7", hf, ours, ours / "step_3", Path("DST"))
            assert Path(args.src) in paths
            assert known.words != "convert from-neox" or Path(args.src) == paths[0]
    names = ("from-neox", "from-hf", "to-hf", "to-neox", "to-megatron")
    assert seen == {"train", "verify", *(f"convert {name}" for name in names)}


def test_one_screen(tmp_path: Path) -> None:
    out = call(inspect, Synthetic(drift=("norm",)).write(tmp_path)).out
    assert len(out.splitlines()) < 45
    free = (str(tmp_path), program())  # a command is a whole line, however long
    lines = [line for line in out.splitlines() if not any(word in line for word in free)]
    assert max(map(len, lines)) <= 100
    for word in (
        "mp 2",
        "2 layers of 32",
        "10 of 14 replicated tensors",
        "optimizer   none",
        "float32",
    ):
        assert word in out


def test_sizes_are_written_with_three_digits() -> None:
    found = [size(n) for n in (0, 999, 1000, 12_345, 999_600, 41_100_000_000, 3 * 10**15)]
    assert found == ["0 bytes", "999 bytes", "1 kB", "12.3 kB", "1 MB", "41.1 GB", "3e+03 TB"]
