"""The proof fails where it should: one change in a converted checkpoint, and it says which."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import yaml

from convert import verify
from convert.ours import program
from convert.readers.jaxneox import open_jaxneox
from tests.convert.commands import run
from tests.reference.compare import relative_l2

Change = Callable[[np.ndarray], None]


def one_weight(leaf: np.ndarray) -> None:
    """By 1 %, in layer 1 where there are layers."""
    leaf[tuple(size // 3 for size in leaf.shape)] *= 1.01


def twice_in_layer_1(leaf: np.ndarray) -> None:
    leaf[1] *= 2


def permute_queries_and_keys(leaf: np.ndarray) -> None:
    leaf[1] = leaf[1][..., [1, 0, 2], :]


def swap_rows(leaf: np.ndarray) -> None:
    leaf[[3, 4]] = leaf[[4, 3]]


def swap_columns(leaf: np.ndarray) -> None:
    leaf[:, [3, 4]] = leaf[:, [4, 3]]


CHANGES = {
    ("layers.mlp.up", one_weight): "layer 1: layers.mlp.up",
    ("layers.mlp.down", one_weight): "layer 1: layers.mlp.down",
    ("layers.attention.qkv", one_weight): "layer 1: layers.attention.qkv",
    ("layers.norm1.scale", one_weight): "layer 1: layers.",
    ("layers.mlp.down_bias", twice_in_layer_1): "layer 1: layers.mlp.down_bias",
    ("layers.attention.out_bias", twice_in_layer_1): "layer 1: layers.attention.out_bias",
    ("layers.attention.qkv", permute_queries_and_keys): "layer 1: layers.attention.qkv",
    ("embed.tokens", swap_rows): "embed.tokens: 128 of",
    ("unembed.weight", swap_columns): "unembed.weight",
    ("embed.tokens", one_weight): "embed.tokens: 1 of",
}


@pytest.mark.parametrize("name", ["seqres_mp2", "pythia_mp2_drift"])
def test_an_untouched_checkpoint_is_the_same_function(converted, name: str) -> None:
    case, dst = converted(name)
    said = run(verify, case.folder, dst, "--tokens", case.folder / "golden.npz")
    assert (said.status, said.out.splitlines()[-1]) == (0, "the same function")
    assert f"on all {case.tokens.size} tokens of golden.npz" in said.out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seqres_mp2", "pythia_mp2_drift"])
@pytest.mark.parametrize(
    ("leaf", "change"), CHANGES, ids=lambda part: getattr(part, "__name__", part)
)
def test_one_change_is_found_and_named(
    converted, tmp_path, monkeypatch, name: str, leaf: str, change: Change
) -> None:
    case, dst = converted(name)
    changed = tmp_path / "changed"
    shutil.copytree(dst, changed)
    edit(changed / "step_5" / "params" / leaf, change)
    monkeypatch.setattr("convert.proof.case.program_of", lambda target: "not run")
    said = run(verify, case.folder, changed)
    assert said.status == 1
    assert CHANGES[leaf, change] in said.out.splitlines()[0], said.out


@pytest.mark.parametrize("where", ["config.yml", "step_5/meta/metadata"])
def test_another_form_of_gelu_is_found(converted, tmp_path, where: str) -> None:
    case, dst = converted("pythia_mp2_drift")
    changed = tmp_path / "changed"
    shutil.copytree(dst, changed)
    text = (changed / where).read_text()
    if where == "config.yml":
        text = yaml.safe_dump(yaml.safe_load(text) | {"bias_gelu_fusion": True})
    else:
        meta = json.loads(text)
        text = json.dumps(meta | {"keys": meta["keys"] | {"bias_gelu_fusion": True}})
    (changed / where).write_text(text)
    said = run(verify, case.folder, changed)
    assert said.status == 1
    assert "mlp.activation is gelu there and gelu_tanh here" in said.out
    assert "layer 0" in said.out and "layer 3" in said.out


def test_the_program_is_held_against_the_proof(converted, monkeypatch) -> None:
    """A fault of the JAX model itself, with every number in its place."""
    case, dst = converted("seqres_mp2")
    wrong = lambda width, base, scaling: np.ones(width // 2, np.float32)  # noqa: E731
    monkeypatch.setattr("jaxneox.model.positions.scaled", wrong)
    said = run(verify, case.folder, dst)
    assert said.status == 1 and "the running program" in said.out


def test_a_large_program_is_run_a_layer_at_a_time(converted, monkeypatch) -> None:
    """The same figure as by loading it whole, but for rounding; and a fault is found as well."""
    case, dst = converted("seqres_mp2")
    tokens = case.tokens[:2]
    whole = program.logits(dst, tokens)
    monkeypatch.setattr(program, "WHOLE", 0)
    checkpoint = open_jaxneox(dst)
    by_layer = program.program(checkpoint).logits(tokens)
    assert relative_l2(by_layer, whole) <= 5e-7  # a few roundings of float32
    said = run(verify, case.folder, dst)
    assert said.status == 0 and "(its own layers one at a time" in said.out
    monkeypatch.setattr("jaxneox.model.positions.scaled", lambda width, *_: np.ones(width // 2))
    said = run(verify, case.folder, dst)
    assert said.status == 1 and "the running program" in said.out


def edit(array: Path, change: Change) -> None:
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{array}/"}}
    store = ts.open(spec).result()
    leaf = np.array(store.read().result())
    change(leaf)
    store.write(leaf).result()
