"""Files that NeoX wrote in other ways, or that others made of them: read, or refused by name."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from convert import from_hf, from_megatron, from_neox, inspect, to_hf, to_megatron
from convert.readers.jaxneox import open_jaxneox
from tests.convert.commands import call, run
from tests.convert.synthetic import Synthetic

GATED = {
    "activation": "swiglu",
    "use-bias-in-mlp": False,
    "gpt-j-residual": False,
    "intermediate-size": 96,
    "norm": "rmsnorm",
}


def parameters(run_folder: Path) -> dict[str, np.ndarray]:
    opened = open_jaxneox(run_folder)
    return {name: opened.leaf(name) for name in opened.shapes}


def same(a: Path, b: Path) -> None:
    left, right = parameters(a), parameters(b)
    assert left.keys() == right.keys()
    for name, values in left.items():
        np.testing.assert_array_equal(values, right[name], err_msg=name)


def as_llama_mlp(step: Path) -> None:
    """The files as NeoX wrote them from 2023-05 to 2024-09: linear1 = [w3 | w1], linear2 = w2."""
    for path in step.glob("layer_0[23]-*"):
        tensors = torch.load(path, weights_only=True)
        up, gate = tensors.pop("mlp.linear1.weight").chunk(2)
        tensors |= {"mlp.w3.weight": up.clone(), "mlp.w1.weight": gate.clone()}
        tensors["mlp.w2.weight"] = tensors.pop("mlp.linear2.weight")
        torch.save(tensors, path)


@pytest.mark.slow
@pytest.mark.parametrize("said", [{"mlp-type": "llama", "activation": "silu"}, {}])
def test_the_mlp_of_llama_models_of_2023(tmp_path: Path, said: dict[str, str]) -> None:
    """By HEAD's keys, or by those of its time, of which the width is one."""
    head = Synthetic(keys=GATED).write(tmp_path / "head")
    old = Synthetic(keys=GATED).write(tmp_path / "old")
    as_llama_mlp(old)
    for path in (old / "configs").iterdir():
        keys = yaml.safe_load(path.read_text()) | said
        keys["intermediate-size"] = 32 if said else 96
        path.write_text(yaml.safe_dump(keys))
    for source in (head, old):
        told = call(from_neox, source, tmp_path / f"{source.parent.name}_ours")
        assert "the same function" in told.out.splitlines()
    same(tmp_path / "head_ours", tmp_path / "old_ours")
    assert "MLP 32" in call(inspect, old).out


def test_the_width_of_an_mlp_of_2023_that_names_none(tmp_path: Path) -> None:
    """2/3 of four times the hidden size, rounded up to a multiple of 256."""
    keys = GATED | {"intermediate-size": 3 * 256}
    run_folder = Synthetic(keys=keys, hidden=48).write(tmp_path / "run")
    as_llama_mlp(run_folder)
    for path in (run_folder / "configs").iterdir():
        content = yaml.safe_load(path.read_text()) | {"mlp-type": "llama", "activation": "silu"}
        del content["intermediate-size"]
        path.write_text(yaml.safe_dump(content))
    call(from_neox, run_folder, tmp_path / "dst", "--no-verify")
    assert open_jaxneox(tmp_path / "dst").model.mlp.size == 256  # of 128


def test_an_mlp_of_2023_whose_layernorms_drifted(tmp_path: Path) -> None:
    """Folding needs biases, which NeoX's never had."""
    keys = GATED | {"norm": "layernorm"}
    run_folder = Synthetic(keys=keys, drift=("layernorm",)).write(tmp_path / "run")
    as_llama_mlp(run_folder)
    assert "the same function" in call(from_neox, run_folder, tmp_path / "dst").out.splitlines()


def test_an_mlp_of_2023_with_an_activation_that_head_has_no_gate_for(tmp_path: Path) -> None:
    run_folder = Synthetic(keys=GATED | {"activation": "swiglu"}).write(tmp_path / "run")
    as_llama_mlp(run_folder)
    for path in (run_folder / "configs").iterdir():
        path.write_text(path.read_text().replace("swiglu", "mish"))
    said = run(from_neox, run_folder, tmp_path / "dst")
    assert said.status == 2 and "activation: mish in an MLP of mlp_type llama" in said.error


def test_layers_and_heads_that_the_yaml_has_exchanged(tmp_path: Path) -> None:
    """As pythia-12b-deduped's has them: 36 layers of 40 heads of 5120. The files decide."""
    right = Synthetic(layers=3, heads=4).write(tmp_path / "right")
    wrong = Synthetic(layers=3, heads=4).write(tmp_path / "wrong")
    for path in (wrong / "configs").iterdir():
        keys = yaml.safe_load(path.read_text()) | {"num-layers": 4, "num-attention-heads": 3}
        path.write_text(yaml.safe_dump(keys))
    call(from_neox, right, tmp_path / "a")
    said = call(from_neox, wrong, tmp_path / "b")
    assert "num-layers and num-attention-heads are exchanged: the files have 3 layers" in said.err
    same(tmp_path / "a", tmp_path / "b")
    assert open_jaxneox(tmp_path / "a").model == open_jaxneox(tmp_path / "b").model
    assert "are exchanged" in call(inspect, wrong).out


def test_another_number_of_layers_is_refused_still(tmp_path: Path) -> None:
    run_folder = Synthetic(layers=3, heads=4).write(tmp_path / "run")
    for path in (run_folder / "configs").iterdir():
        path.write_text(path.read_text().replace("num-layers: 3", "num-layers: 2"))
    said = run(from_neox, run_folder, tmp_path / "dst")
    assert said.status == 2 and "num_layers is 2" in said.error


def test_an_mlp_of_2023_in_a_parallel_residual(tmp_path: Path) -> None:
    """NeoX of its time calls `expand_as` of a bias that is None."""
    run_folder = Synthetic(keys=GATED | {"gpt-j-residual": True}).write(tmp_path / "run")
    as_llama_mlp(run_folder)
    said = run(from_neox, run_folder, tmp_path / "dst")
    assert said.status == 2 and "there is nothing that it computed" in said.error


@pytest.fixture
def merged(tmp_path: Path) -> tuple[Path, Path]:
    """A Sequential run, and what zero_to_fp32.py would write of it, with its YAML."""
    step = Synthetic(mp=1, pp=0).write(tmp_path / "run")
    module = torch.load(step / "mp_rank_00_model_states.pt", weights_only=False)["module"]
    out = tmp_path / "out"
    shutil.copytree(step / "configs", out / "configs")
    torch.save({n.removeprefix("sequential."): t for n, t in module.items()},
               out / "pytorch_model.bin")  # fmt: skip
    return step, out


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_what_zero_to_fp32_writes(merged: tuple[Path, Path], tmp_path: Path, parts: int) -> None:
    step, out = merged
    if parts == 2:
        whole = torch.load(out / "pytorch_model.bin", weights_only=True)
        (out / "pytorch_model.bin").unlink()
        (out / "pytorch_model.bin.index.json").write_text("{}")
        for number in (1, 2):
            half = {n: t for i, (n, t) in enumerate(whole.items()) if i % 2 == number - 1}
            torch.save(half, out / f"pytorch_model-{number:05d}-of-00002.bin")
    call(from_neox, step, tmp_path / "a")
    assert "the same function" in call(from_neox, out, tmp_path / "b").out.splitlines()
    same(tmp_path / "a", tmp_path / "b")
    assert "GPT-NeoX" in call(inspect, out).out
    said = run(from_hf, out, tmp_path / "c")
    assert said.status == 2 and "convert from-neox" in said.error
    said = run(from_neox, out, tmp_path / "c", "--optimizer")
    assert said.status == 2 and "weights alone, and no optimizer" in said.error


def test_what_zero_to_fp32_writes_of_several_ranks(merged: tuple[Path, Path]) -> None:
    _, out = merged
    for path in (out / "configs").iterdir():
        path.write_text(
            path.read_text().replace("model-parallel-size: 1", "model-parallel-size: 2")
        )
    said = run(from_neox, out, out.parent / "dst")
    assert said.status == 2 and "of whose ranks it does not make one model" in said.error


@pytest.mark.parametrize("command", [from_neox, inspect])
@pytest.mark.parametrize("of_run", [True, False])
def test_stage_3_and_universal_checkpoints_are_refused_by_name(
    tmp_path: Path, command, of_run: bool
) -> None:
    three = tmp_path / "three" / "global_step5"
    three.mkdir(parents=True)
    (three / "zero_pp_rank_0_mp_rank_00_model_states.pt").touch()
    universal = tmp_path / "universal" / "global_step5_universal"
    (universal / "zero").mkdir(parents=True)
    dst = [tmp_path / "dst"] if command is from_neox else []
    said = run(command, three.parent if of_run else three, *dst)
    assert said.status == 2 and "ZeRO stage 3" in said.error and "zero_to_fp32.py" in said.error
    said = run(command, universal.parent if of_run else universal, *dst)
    assert said.status == 2
    assert "universal checkpoint of DeepSpeed" in said.error and "global_stepN" in said.error


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("command", [from_hf, inspect])
def test_a_clone_without_git_lfs(tmp_path: Path, name: str, command) -> None:
    config = {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox"}
    (tmp_path / "config.json").write_text(str(config).replace("'", '"'))
    (tmp_path / name).write_text(POINTER)
    dst = [tmp_path / "dst"] if command is from_hf else []
    said = run(command, tmp_path, *dst)
    assert said.status == 2 and name in said.error and "git lfs pull" in said.error


def test_a_neox_file_that_is_a_pointer(tmp_path: Path) -> None:
    step = Synthetic().write(tmp_path / "run")
    (step / "layer_02-model_01-model_states.pt").write_text(POINTER)
    said = run(from_neox, step, tmp_path / "dst")
    assert said.status == 2 and "layer_02-model_01" in said.error and "git lfs" in said.error


@pytest.fixture
def diverged(tmp_path: Path) -> Path:
    """One number of one rank's matrix is NaN, two of a norm's copy are infinite."""
    step = Synthetic().write(tmp_path / "run")
    for name, tensor, value in (
        ("layer_03-model_01-model_states.pt", "attention.dense.weight", float("nan")),
        ("layer_02-model_00-model_states.pt", "input_layernorm.weight", float("inf")),
    ):
        tensors = torch.load(step / name, weights_only=True)
        tensors[tensor].view(-1)[: 1 if value != value else 2] = value
        torch.save(tensors, step / name)
    return step


def test_a_source_that_holds_nan_is_said_to(diverged: Path, tmp_path: Path) -> None:
    said = run(from_neox, diverged, tmp_path / "dst")
    assert said.status == 2 and not (tmp_path / "dst").exists()
    assert "the source itself holds numbers that are NaN or infinite, in 2 tensors" in said.error
    assert "layer 1, attention.dense.weight: 1 of 1024" in said.error
    assert "layer 0, input_layernorm.weight: 2 of 64" in said.error
    seen = run(inspect, diverged)
    assert seen.status == 2 and "layer 1, attention.dense.weight, rank 1: 1 of 512" in seen.error
    assert "--no-verify" in seen.out and "the weights, NaN included, unproved" in seen.out


def test_a_diverged_run_is_copied_as_it_is(diverged: Path, tmp_path: Path) -> None:
    """And every further conversion names the tensors again, as its own source's."""
    said = call(from_neox, diverged, tmp_path / "dst", "--no-verify")
    assert "warning:" in said.err and "attention.dense.weight: 1 of 1024" in said.err
    assert np.isnan(open_jaxneox(tmp_path / "dst").leaf("layers.attention.out", 1)).sum() == 1
    assert "layers.attention.out: 1 of" in run(inspect, tmp_path / "dst").error
    said = run(to_hf, tmp_path / "dst", tmp_path / "hf")
    assert said.status == 2 and "attention.dense.weight: 1 of 1024" in said.error
    call(to_hf, tmp_path / "dst", tmp_path / "hf", "--no-verify")
    said = run(from_hf, tmp_path / "hf", tmp_path / "back")
    assert said.status == 2 and "layer 1, gpt_neox.layers.*.attention.dense.weight" in said.error
    assert run(inspect, tmp_path / "hf").status == 2


def test_a_nan_that_all_ranks_have_is_no_drift(tmp_path: Path) -> None:
    """So that nothing is folded because of it, and every other number stays as it is."""
    whole, broken = Synthetic().write(tmp_path / "a"), Synthetic().write(tmp_path / "b")
    for path in broken.glob("layer_02-*"):
        tensors = torch.load(path, weights_only=True)
        tensors["input_layernorm.weight"][0] = float("nan")
        torch.save(tensors, path)
    call(from_neox, whole, tmp_path / "whole")
    said = call(from_neox, broken, tmp_path / "broken", "--no-verify")
    assert "layer 0, input_layernorm.weight: 2 of 64" in said.err
    left, right = parameters(tmp_path / "whole"), parameters(tmp_path / "broken")
    assert left.keys() == right.keys()
    differ = {name: int((left[name] != right[name]).sum()) for name in left}
    assert {name: count for name, count in differ.items() if count} == {"layers.norm1.scale": 1}


def test_nan_of_a_megatron_run(tmp_path: Path) -> None:
    step = Synthetic(keys={"gpt-j-residual": False}).write(tmp_path / "run")
    call(from_neox, step, tmp_path / "ours")
    call(to_megatron, tmp_path / "ours", tmp_path / "megatron", "--tp", 2, "--format", "torch")
    path = next((tmp_path / "megatron").glob("*/mp_rank_01/model_optim_rng.pt"))
    state = torch.load(path, weights_only=False)
    state["model"]["decoder.layers.1.mlp.linear_fc2.weight"][0, 0] = float("nan")
    torch.save(state, path)
    for command, *dst in ((from_megatron, tmp_path / "back"), (inspect,)):
        said = run(command, tmp_path / "megatron", *dst)
        assert said.status == 2 and "layer 1, mlp.linear_fc2.weight" in said.error, said
