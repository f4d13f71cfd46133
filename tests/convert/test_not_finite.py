"""A NaN is the same in two copies that both have it, and it spreads to no other number."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from convert import from_hf, from_megatron, from_neox, to_megatron
from convert.neox.merge import make_plan
from convert.neox.plan import MergeChoices
from convert.readers.hf import HfCheckpoint
from convert.readers.hf_files import SafeTensor
from convert.readers.jaxneox import open_jaxneox
from convert.readers.neox_open import open_neox
from tests.convert.commands import call, run
from tests.convert.hf_models import GPT2, GPT_NEOX, LLAMA, export, write_run
from tests.convert.megatron import rewrite
from tests.convert.synthetic import Synthetic
from tests.convert.test_megatron_fp16 import legacy
from tests.convert.test_optimizer import copied, deepspeed

__all__ = ["deepspeed"]  # a fixture

NAN = float("nan")


def in_tensors(folder: Path, *names: str) -> None:
    """The first number of each of these tensors, and of its other name, is NaN."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in names:
        tensors[name].reshape(-1)[0] = NAN
    save_file(tensors, path)


def test_a_head_under_its_other_name_is_not_read_at_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(tmp_path, "--no-verify", keys=GPT_NEOX)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("embed_out.weight")
    save_file(tensors, folder / "model.safetensors")
    in_tensors(folder, "lm_head.weight")
    read = SafeTensor.numpy
    asked: list[str] = []

    def numpy(self: SafeTensor) -> np.ndarray:
        asked.append(self.name)
        return read(self)

    monkeypatch.setattr(SafeTensor, "numpy", numpy)
    opened = HfCheckpoint(folder)
    assert asked == [] and np.isnan(opened.leaf("unembed.weight")).sum() == 1


@pytest.mark.parametrize("kind", ["both names", "tied"])
def test_a_nan_in_a_tensor_that_is_there_twice(tmp_path: Path, kind: str) -> None:
    keys = GPT_NEOX if kind == "both names" else LLAMA | {"no_weight_tying": False}
    folder = export(tmp_path, "--no-verify", keys=keys)
    tensors = load_file(folder / "model.safetensors")
    first = "embed_out.weight" if kind == "both names" else "model.embed_tokens.weight"
    tensors["lm_head.weight"] = tensors[first].copy()
    save_file(tensors, folder / "model.safetensors")
    in_tensors(folder, first, "lm_head.weight")
    HfCheckpoint(folder)
    said = run(from_hf, folder, tmp_path / "ours")
    assert "NaN or infinite, in 1 tensor" in said.error


def test_a_number_that_one_copy_of_a_norm_lacks_stays_in_the_norm(tmp_path: Path) -> None:
    """Folding it would make a column of every matrix behind the norm infinite or NaN."""
    step = Synthetic(drift=("layernorm",)).write(tmp_path / "run")
    path = step / "layer_02-model_00-model_states.pt"
    tensors = torch.load(path, weights_only=True)
    tensors["input_layernorm.weight"][3] = float("inf")
    tensors["input_layernorm.bias"][5] = NAN
    torch.save(tensors, path)
    whole = Synthetic(drift=("layernorm",)).write(tmp_path / "whole")
    call(from_neox, step, tmp_path / "a", "--no-verify")
    call(from_neox, whole, tmp_path / "b", "--no-verify")
    broken, sound = open_jaxneox(tmp_path / "a"), open_jaxneox(tmp_path / "b")
    bad = {name: int((~np.isfinite(broken.leaf(name))).sum()) for name in broken.shapes}
    assert {name: count for name, count in bad.items() if count} == {
        "layers.norm1.scale": 1, "layers.norm1.bias": 1,
    }  # fmt: skip
    qkv, other = (run_.leaf("layers.attention.qkv", 0) for run_ in (broken, sound))
    rows = [d for d in range(32) if d != 3]  # every other number is folded as it was
    np.testing.assert_array_equal(qkv[rows], other[rows])
    page = (tmp_path / "a" / "certificate.md").read_text()
    assert "kept exactly, but for numbers that are not finite" in page


def test_relative_positions_with_a_nan_are_still_one_table(tmp_path: Path) -> None:
    folder = Synthetic(keys={"pos-emb": "rpe"}).write(tmp_path / "run")
    for path in folder.glob("layer_0[23]-*"):
        tensors = torch.load(path, weights_only=True)
        tensors["attention.rpe.weight"] = torch.full((32, 2), NAN)
        torch.save(tensors, path)
    make_plan(open_neox(folder), MergeChoices())


def test_master_weights_with_a_nan_are_of_the_same_step(tmp_path: Path, deepspeed: None) -> None:
    source = copied("zero1_dp2_mp2", tmp_path)
    yaml = next(source.glob("global_step5/configs/*.yml"))
    yaml.write_text(yaml.read_text().replace("precision: fp32", "precision: fp16"))
    for path in source.glob("global_step5/layer_*"):
        tensors = torch.load(path, weights_only=True)
        torch.save({name: tensor.half() for name, tensor in tensors.items()}, path)
    path = source / "global_step5" / "layer_00-model_00-model_states.pt"
    tensors = torch.load(path, weights_only=True)
    first = tensors["word_embeddings.weight"].view(-1)[0].clone()
    tensors["word_embeddings.weight"].view(-1)[0] = NAN
    torch.save(tensors, path)
    found = 0
    for path in sorted(source.glob("global_step5/zero_pp_rank_*_mp_rank_00*")):
        state = torch.load(path, weights_only=False)
        for flat in state["optimizer_state_dict"]["single_partition_of_fp32_groups"]:
            at = (flat.half() == first).nonzero()
            if not found and len(at):
                flat.data[at[0]] = NAN
                found += 1
        torch.save(state, path)
    assert found
    call(from_neox, source, tmp_path / "run", "--optimizer", "--no-verify")


def test_masters_of_a_megatron_run_with_a_nan(tmp_path: Path) -> None:
    folder = legacy(tmp_path)

    def spoil(state: dict) -> None:
        masters = state["optimizer"]["fp32_from_fp16_params"][0]
        next(iter(state["model"].values())).view(-1)[0] = NAN
        masters[0].view(-1)[0] = NAN

    rewrite(folder, spoil)
    call(from_megatron, folder, tmp_path / "dst", "--optimizer", "--no-verify")


def test_a_tied_head_of_megatron_with_a_nan(tmp_path: Path) -> None:
    write_run(tmp_path / "run", GPT2)
    call(to_megatron, tmp_path / "run", tmp_path / "m", "--format", "torch", "--no-verify")

    def spoil(state: dict) -> None:
        words = state["model"]["embedding.word_embeddings.weight"]
        words[0, 0] = NAN
        state["model"]["output_layer.weight"] = words.clone()
        del state["args"].untie_embeddings_and_output_weights

    rewrite(tmp_path / "m", spoil)
    call(from_megatron, tmp_path / "m", tmp_path / "dst", "--no-verify")
    assert open_jaxneox(tmp_path / "dst").model.tied_embedding
