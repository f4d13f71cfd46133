"""Bad input: one clear line that says what and where, exit status 2, and no DST."""

import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from convert import from_neox, to_neox, verify
from convert.writers.staging import MARK
from tests.convert.commands import Said, call, run
from tests.convert.synthetic import Synthetic

LAYER = "layer_{:02d}-model_{:02d}-model_states.pt"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A small checkpoint, the step's folder: mp=2, two blocks, all of its files."""
    return Synthetic().write(tmp_path / "run")


def refused(src: Path, *flags: object) -> Said:
    """Converts; nothing may be left but one line."""
    dst = src.parent.parent / "dst"
    said = run(from_neox, src, dst, *flags)
    assert said.status == 2, said
    assert not dst.exists() and not list(dst.parent.glob("dst*")), "something was left behind"
    assert "Traceback" not in said.err
    return said


def rewrite(path: Path, change: Callable[[dict], None]) -> None:
    tensors = torch.load(path, weights_only=True)
    change(tensors)
    torch.save(tensors, path)


def test_the_untouched_one_converts(run_folder: Path) -> None:
    assert call(from_neox, run_folder, run_folder.parent.parent / "dst").status == 0


@pytest.mark.parametrize("index", [0, 2, 5, 6])
def test_a_missing_file_of_one_rank(run_folder: Path, index: int) -> None:
    (run_folder / LAYER.format(index, 1)).unlink()
    assert LAYER.format(index, 1) in refused(run_folder).error


@pytest.mark.parametrize("index", [0, 2, 3, 5, 6])
def test_a_missing_layer_of_all_ranks(run_folder: Path, index: int) -> None:
    for rank in (0, 1):
        (run_folder / LAYER.format(index, rank)).unlink()
    said = refused(run_folder).error
    assert LAYER.format(index, 0) in said or "the files have 1 blocks" in said


def test_all_files_of_a_rank_missing(run_folder: Path) -> None:
    for path in run_folder.glob("layer_*-model_01-*"):
        path.unlink()
    (run_folder / "mp_rank_01_model_states.pt").unlink()
    assert LAYER.format(0, 1) in refused(run_folder).error


def test_a_missing_mp_rank_file(run_folder: Path) -> None:
    (run_folder / "mp_rank_01_model_states.pt").unlink()
    assert "mp_rank_01_model_states.pt" in refused(run_folder).error


def test_a_missing_rank_of_the_sequential_engine(tmp_path: Path) -> None:
    folder = Synthetic(pp=0).write(tmp_path / "run")
    (folder / "mp_rank_01_model_states.pt").unlink()
    assert "mp_rank_01_model_states.pt" in refused(folder).error


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file(run_folder: Path, share: float) -> None:
    path = run_folder / LAYER.format(2, 1)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    said = refused(run_folder).error
    assert path.name in said and "damaged" in said


def test_a_flipped_bit_in_any_tensor(run_folder: Path) -> None:
    path = run_folder / LAYER.format(3, 0)
    whole = path.read_bytes()
    for at in range(2000, len(whole) - 2000, len(whole) // 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        said = refused(run_folder).error
        assert path.name in said and "damaged" in said


def test_an_empty_file_and_one_that_is_no_archive(run_folder: Path) -> None:
    for content in (b"", b"not a checkpoint", pickle.dumps({"a": 1})):
        (run_folder / LAYER.format(2, 0)).write_bytes(content)
        assert LAYER.format(2, 0) in refused(run_folder).error


def test_shards_of_different_steps(run_folder: Path) -> None:
    rewrite(run_folder / "mp_rank_01_model_states.pt", lambda state: state.update(iteration=8))
    said = refused(run_folder).error
    assert "different steps" in said and "mp_rank_01_model_states.pt of step 8" in said


def test_shards_of_different_shapes(run_folder: Path) -> None:
    def cut(tensors: dict) -> None:
        tensors["mlp.linear1.weight"] = tensors["mlp.linear1.weight"][:-1].clone()

    rewrite(run_folder / LAYER.format(3, 1), cut)
    said = refused(run_folder).error
    assert LAYER.format(3, 1) in said and "[63, 32]" in said and "[64, 32]" in said


def test_shards_of_different_types(run_folder: Path) -> None:
    def halve(tensors: dict) -> None:
        tensors["norm.weight"] = tensors["norm.weight"].half()

    rewrite(run_folder / LAYER.format(5, 1), halve)
    assert "norm.weight is float16, the embedding float32" in refused(run_folder).error


def test_every_contradiction_of_the_configuration_is_listed(run_folder: Path) -> None:
    path = run_folder / "configs" / "neox_config.yml"
    keys = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(keys | {"intermediate-size": 64, "norm": "rmsnorm"}))
    said = refused(run_folder).error
    for wrong in ("input_layernorm.scale", "mlp.linear1.bias", "mlp.linear2.weight", "norm.bias"):
        assert wrong in said
    all_four = f"{LAYER.format(2, 0)}, {LAYER.format(2, 1)} and 2 more: "
    assert said.count(f"{all_four}input_layernorm.scale [32] is missing") == 1
    assert "characters …]" not in said  # as there are where a line is too long


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num-layers", 3, "the files have 2 blocks"),
        ("hidden-size", 64, "hidden_size is 64, mp_rank_00_model_states.pt says 32"),
        ("num-attention-heads", 8, "num_attention_heads is 8, mp_rank_00_model_states.pt says 4"),
        ("no-weight-tying", False, "final_linear.weight"),
        ("model-parallel-size", 4, "missing layer_00-model_02-model_states.pt"),
    ],
)
def test_a_configuration_of_another_model(run_folder: Path, key, value, said: str) -> None:
    path = run_folder / "configs" / "neox_config.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {key: value}))
    assert said in refused(run_folder).error


def test_every_unknown_tensor_is_listed(run_folder: Path) -> None:
    for index, rank in ((2, 0), (3, 1)):
        rewrite(
            run_folder / LAYER.format(index, rank),
            lambda tensors: tensors.update({"attention.new": torch.ones(2)}),
        )
    said = refused(run_folder).error
    files = f"{LAYER.format(2, 0)}, {LAYER.format(3, 1)}"
    assert f"{files}: attention.new [2] is not in this architecture" in said


class Attack:
    """What a malicious file would have run."""

    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('hacked').write_text('')",)


@pytest.mark.parametrize("name", [LAYER.format(2, 0), "mp_rank_00_model_states.pt"])
def test_a_pickle_that_names_a_foreign_class(run_folder, monkeypatch, name: str) -> None:
    monkeypatch.chdir(run_folder.parent)
    torch.save({"x": Attack()}, run_folder / name)
    said = refused(run_folder).error
    assert "names builtins.exec" in said and name in said
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        ("attention.time_decay", "an RWKV model"),
        ("mlp.deepspeed_moe.gate.weight", "a mixture of DeepSpeed's experts"),
        ("attention.qkv._extra_state", "a Transformer Engine checkpoint"),
        ("mlp.fc1_weight", "a Transformer Engine checkpoint"),
    ],
)
def test_kinds_that_are_not_supported(run_folder: Path, tensor: str, kind: str) -> None:
    rewrite(run_folder / LAYER.format(2, 0), lambda t: t.update({tensor: torch.ones(2)}))
    said = refused(run_folder).error
    assert kind in said and tensor in said


@pytest.mark.parametrize("tensor", ["mixer.A_log", "mlp.experts.mlp.w1"])
def test_tensors_of_another_kind_of_layer(run_folder: Path, tensor: str) -> None:
    rewrite(run_folder / LAYER.format(2, 0), lambda t: t.update({tensor: torch.ones(2)}))
    assert f"{tensor} [2] is not in this architecture" in refused(run_folder).error


@pytest.mark.parametrize(
    ("key", "value", "missing"),
    [
        ("attention-config", [[["mamba"], 2]], "mixer.A_log"),
        ("moe-num-experts", 8, "mlp.experts.mlp.w1"),
    ],
)
def test_a_configuration_of_another_kind_of_layer(
    run_folder: Path, key: str, value: object, missing: str
) -> None:
    path = run_folder / "configs" / "neox_config.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {key: value}))
    said = refused(run_folder).error
    assert missing in said and "is missing" in said


def test_no_room_on_the_disk(run_folder: Path, monkeypatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("convert.writers.staging.shutil.disk_usage", lambda path: Usage)
    assert re.search(r"no room on the disk: 0\.\d+ GB are needed", refused(run_folder).error)


def test_a_destination_that_exists(run_folder: Path) -> None:
    dst = run_folder.parent.parent / "dst"
    dst.mkdir()
    (dst / "mine").write_text("precious")
    for command, src in ((from_neox, run_folder), (to_neox, run_folder)):
        said = run(command, src, dst)
        assert said.status == 2 and "exists already" in said.error
    assert (dst / "mine").read_text() == "precious"


def test_a_folder_that_is_in_the_way_is_not_touched(run_folder: Path) -> None:
    aside = run_folder.parent.parent / "dst.partial"
    aside.mkdir()
    (aside / "mine").write_text("precious")
    said = run(from_neox, run_folder, run_folder.parent.parent / "dst")
    assert said.status == 2 and "is in the way" in said.error
    assert (aside / "mine").read_text() == "precious"


def test_sources_that_are_no_neox_checkpoint(run_folder: Path, tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "model.safetensors").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    call(from_neox, run_folder, dst, "--no-verify")
    for src, said in {
        tmp_path / "hf": "from-hf",
        tmp_path / "empty": "no NeoX checkpoint",
        tmp_path / "nowhere": "no such folder",
        dst: "is a jaxneox checkpoint already",
    }.items():
        found = run(from_neox, src, tmp_path / "new")
        assert found.status == 2 and said in found.error and not (tmp_path / "new").exists()


def test_a_step_that_is_not_there(run_folder: Path) -> None:
    said = run(from_neox, run_folder.parent, run_folder.parent.parent / "dst", "--step", 9)
    assert said.status == 2 and "no checkpoint of step 9; there are: 7" in said.error


def test_no_configuration(run_folder: Path) -> None:
    shutil.rmtree(run_folder / "configs")
    (run_folder.parent / "neox_config.yml").rename(run_folder.parent.parent / "mine.yml")
    assert "--config FILE.yml" in refused(run_folder).error
    flags = ("--config", run_folder.parent.parent / "mine.yml", "--no-verify")
    call(from_neox, run_folder, run_folder.parent.parent / "dst", *flags)


def test_a_tokenizer_of_another_model(run_folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    words = {f"w{i}": i for i in range(100)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(tmp_path / "large.json"))
    said = refused(run_folder, "--tokenizer", tmp_path / "large.json").error
    assert "ids up to 99, but the model 64 rows" in said


def test_a_tensor_by_its_old_name_and_its_new(run_folder: Path) -> None:
    def both(tensors: dict) -> None:
        tensors["mlp.dense_h_to_4h.weight"] = tensors["mlp.linear1.weight"] * 2

    rewrite(run_folder / LAYER.format(2, 0), both)
    assert "mlp.linear1.weight is there twice" in refused(run_folder).error


def test_keys_of_our_own_are_no_keys_of_neox(run_folder: Path) -> None:
    path = run_folder / "configs" / "neox_config.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"attention-dropped": True}))
    assert "attention_dropped is not a key of NeoX" in refused(run_folder).error


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_numbers_beyond_the_type_that_is_asked_for(run_folder: Path, dtype: str) -> None:
    def grow(tensors: dict) -> None:
        tensors["mlp.linear1.weight"][0, :2] = torch.tensor([3.4e38, float("nan")])

    rewrite(run_folder / LAYER.format(2, 0), grow)
    assert f"which {dtype} cannot hold" in refused(run_folder, "--dtype", dtype).error


def test_what_nobody_thought_of_is_one_line_as_well(run_folder: Path, monkeypatch) -> None:
    def fail(source: object) -> None:
        raise RuntimeError("line one\nline two\x1b[2J")

    monkeypatch.setattr("convert.neox.source.check_consistency", fail)
    line = refused(run_folder).error
    assert "RuntimeError: line one line two" in line and "\x1b" not in line
    monkeypatch.setenv("JAXNEOX_TRACE", "1")
    with pytest.raises(RuntimeError):
        run(from_neox, run_folder, run_folder.parent.parent / "dst")


def test_a_link_to_nowhere_is_a_destination_that_exists(run_folder: Path) -> None:
    dst = run_folder.parent.parent / "dst"
    dst.symlink_to("nowhere")
    said = run(from_neox, run_folder, dst)
    assert said.status == 2 and "exists already" in said.error


def test_verify_of_something_that_is_no_checkpoint(run_folder: Path, tmp_path: Path) -> None:
    said = run(verify, run_folder, tmp_path / "nowhere")
    assert said.status == 2 and "no such folder" in said.error


@pytest.mark.slow
def test_killed_and_started_again(tmp_path: Path) -> None:
    """A conversion that dies leaves no DST; the same command clears up after it."""
    large = Synthetic(layers=8, hidden=512, heads=8, vocab=20000)
    folder, dst = large.write(tmp_path / "run"), tmp_path / "dst"
    partial = tmp_path / "dst.partial"
    command = [sys.executable, "-m", "convert.from_neox", str(folder), str(dst), "--no-verify"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(partial.glob("step_7/params/layers.mlp.up/*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not dst.exists() and (partial / MARK).is_file()
    call(from_neox, folder, dst, "--no-verify")
    assert not partial.exists() and (dst / "certificate.json").is_file()
