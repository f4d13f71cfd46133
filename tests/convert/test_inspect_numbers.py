"""`inspect` looks for NaN and infinity in the weights: what it reads, and what it advises."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from convert import from_hf, from_megatron, from_neox, inspect, to_megatron
from convert.inspection import finite
from convert.readers import hf_files
from convert.readers.jaxneox import JaxneoxCheckpoint
from jaxneox.errors import UserError
from tests.convert.commands import call, run
from tests.convert.hf_models import GPT2, GPT_NEOX, export, write_run
from tests.convert.megatron import load, states
from tests.convert.synthetic import Synthetic
from tests.convert.test_inspect import facts_of


def uses(folder: Path) -> list[dict[str, Any]]:
    """Also of a checkpoint with a problem."""
    return json.loads(run(inspect, folder, "--json").out)["uses"]


def with_nan(path: Path, name: str) -> None:
    tensors = torch.load(path, weights_only=True)
    tensors[name].view(-1)[0] = float("nan")
    torch.save(tensors, path)


def test_masks_that_were_saved_are_no_weights(tmp_path: Path) -> None:
    """transformers saved -1e9 beside them, which is -inf in float16."""
    folder = export(tmp_path, keys=GPT_NEOX)
    path = folder / "model.safetensors"
    tensors: dict[str, Any] = {n: x.astype(np.float16) for n, x in load_file(path).items()}
    for layer in (0, 1):
        name = f"gpt_neox.layers.{layer}.attention.masked_bias"
        tensors[name] = np.array(-np.inf, np.float16)
    save_file(tensors, path)
    assert "the same function" in call(from_hf, folder, tmp_path / "ours").out
    assert facts_of(folder)["not_finite"] == []


def test_much_is_read_only_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Synthetic().write(tmp_path)
    with_nan(step / "layer_02-model_00-model_states.pt", "attention.dense.weight")
    monkeypatch.setattr(finite, "MOST", 0)
    assert "not searched for NaN: 0.0 GB of weights; --numbers reads them" in (
        " ".join(facts_of(tmp_path)["notes"])
    )
    said = run(inspect, tmp_path, "--numbers")
    assert said.status == 2 and "layer 0, attention.dense.weight, rank 0: 1 of 512" in said.error


@pytest.mark.parametrize("kind", ["torch_dist", "huggingface"])
def test_weights_that_cannot_be_read_leave_the_rest_of_the_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whatever is found before they are read, and no command that would fail."""

    def damaged(self: hf_files.SafeTensor) -> np.ndarray:
        raise UserError("model.safetensors: cannot be read (as if)")

    if kind == "huggingface":
        folder, word = export(tmp_path, "--no-verify"), "from-hf"
        monkeypatch.setattr(hf_files.SafeTensor, "numpy", damaged)
    else:
        write_run(tmp_path / "run", GPT2)
        folder, word = tmp_path / "m", "from-megatron"
        call(to_megatron, tmp_path / "run", folder, "--no-verify")
        flip(next(folder.glob("iter_*/*.distcp")))
    said = run(inspect, folder)
    assert said.status == 2 and "2 layers of 48" in said.out and "PROBLEM" in said.out, said
    (use,) = [use for use in uses(folder) if f" {word} " in use["command"]]
    assert not use["possible"] and use["reason"] in said.error


def flip(path: Path) -> None:
    """Another byte in the middle of a file, where its largest tensor lies."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["neox", "megatron"])
def test_what_is_advised_for_a_source_with_nan_is_not_refused(tmp_path: Path, kind: str) -> None:
    if kind == "neox":
        folder, word = tmp_path / "run", "from-neox"
        step = Synthetic().write(folder)
        with_nan(step / "layer_02-model_00-model_states.pt", "attention.dense.weight")
    else:
        write_run(tmp_path / "ours", GPT2)
        folder, word = tmp_path / "m", "from-megatron"
        call(to_megatron, tmp_path / "ours", folder, "--format", "torch", "--no-verify")
        path = next(states(folder))
        state = load(path)
        state["model"]["decoder.layers.1.mlp.linear_fc2.weight"][0, 0] = float("nan")
        state["optimizer"] = {"optimizer": {"state": {}, "param_groups": []}}
        torch.save(state, path)
    said = run(inspect, folder)
    assert said.status == 2 and "the weights, NaN included, unproved" in said.out
    advised = [use["command"] for use in uses(folder) if f" {word} " in use["command"]]
    assert len(advised) == 2 and all(line.endswith(" --no-verify") for line in advised), advised
    dst = tmp_path / "dst"
    command = from_neox if kind == "neox" else from_megatron
    call(command, folder, dst, "--no-verify")


def test_our_own_weights_are_named_by_their_layer(tmp_path: Path) -> None:
    """And read by it: a leaf of all layers is a large part of a model."""
    step = Synthetic().write(tmp_path / "run")
    with_nan(step / "layer_03-model_00-model_states.pt", "attention.dense.weight")
    call(from_neox, step, tmp_path / "ours", "--no-verify")
    asked = []
    whole = JaxneoxCheckpoint.leaf

    def leaf(self: JaxneoxCheckpoint, name: str, layer: int | None = None) -> np.ndarray:
        asked.append((name, layer))
        return whole(self, name, layer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JaxneoxCheckpoint, "leaf", leaf)
        said = run(inspect, tmp_path / "ours")
    assert "layer 1, layers.attention.out: 1 of 1024" in said.error
    assert all((layer is None) != name.startswith("layers.") for name, layer in asked), asked
