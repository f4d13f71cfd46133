"""Runs that NeoX began: their optimizer's state here and back, and the curve they follow."""

import shutil
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from convert import from_neox, to_neox
from convert.readers.jaxneox import JaxneoxMoments
from convert.readers.neox_open import open_neox
from convert.readers.neox_optimizer import open_optimizer
from convert.writers.neox_adam import balanced, stage_modules
from jaxneox import checkpoint
from tests.convert.commands import call, run
from tests.convert.continued import go_on
from tests.convert.golden import find_case

# The losses are float32 of 6, a rounding of 5e-7; the bars.
LOSS, LOGITS = 2e-6, 1e-5


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("pythia_mp2", "dp=2,tp=2"),  # biases that move two steps at a time
        ("zero1_dp2_mp2", "dp=1"),  # partitions, clipping
        ("tied_mp1_pp2", "dp=1"),  # the embedding in two stages
        ("legacy_v2_mp2_pp2", "dp=1"),  # the schedule of 2023, a norm that leaves copies out
    ],
)
def test_follows_the_curve_of_neox(tmp_path: Path, name: str, mesh: str) -> None:
    """All cases and both meshes: python -m tests.convert.continued."""
    found = go_on(name, tmp_path, mesh)
    assert found.loss <= LOSS and found.logits <= LOGITS and found.rate <= 1e-9


def test_bfloat16_takes_the_master_weights(tmp_path: Path) -> None:
    case = find_case("bf16_mp2", optimizer=True)
    call(from_neox, case.folder, tmp_path / "run", "--optimizer", "--no-verify")
    call(from_neox, case.folder, tmp_path / "weights", "--no-verify")
    names = ("layers.mlp.up", "embed.tokens", "layers.norm1.scale")
    for name in names:
        master, stored = (open_leaf(tmp_path / folder, name) for folder in ("run", "weights"))
        assert master.dtype == np.float32
        assert (master != master.astype(stored.dtype)).any()
        np.testing.assert_array_equal(master.astype(stored.dtype), stored)


def open_leaf(folder: Path, name: str) -> np.ndarray:
    from convert.readers.jaxneox import open_jaxneox

    return open_jaxneox(folder).leaf(name)


def test_moments_are_where_their_weights_are(tmp_path: Path) -> None:
    case = find_case("pythia_mp1", optimizer=True)
    call(from_neox, case.folder, tmp_path / "run", "--optimizer", "--no-verify")
    state = open_optimizer(open_neox(case.folder))
    assert (state.count, state.position, state.partitions) == (5, 5, 1)
    for ours, theirs in (("mu", "exp_avg"), ("nu", "exp_avg_sq")):
        moments = JaxneoxMoments(checkpoint.find(str(tmp_path / "run")), ours)  # type: ignore[arg-type]
        assert (moments.updates, moments.position) == (5, 5)
        embedding = state.tensors[theirs, 0, 0, "word_embeddings.weight"].numpy()  # type: ignore[index]
        np.testing.assert_array_equal(moments.leaf("embed.tokens"), embedding)
        down = state.tensors[theirs, 0, 3, "mlp.linear2.weight"].numpy()  # type: ignore[index]
        np.testing.assert_array_equal(moments.leaf("layers.mlp.down", 1), down.T)


def test_documents_that_a_run_told_apart_are_told_apart_here(tmp_path: Path) -> None:
    """By Megatron's keys, which a fork's YAML may have; NeoX itself would not take them."""
    case = find_case("pythia_mp1", optimizer=True)
    keys = {"reset_attention_mask": True, "reset_position_ids": True}
    (tmp_path / "fork.yml").write_text(yaml.safe_dump(open_neox(case.folder).keys | keys))
    given = (case.folder, tmp_path / "run", "--config", tmp_path / "fork.yml")
    call(from_neox, *given, "--optimizer", "--no-verify")
    kept = checkpoint.read_keys(checkpoint.find(str(tmp_path / "run")))
    assert keys.items() <= kept.items()
    call(to_neox, tmp_path / "run", tmp_path / "back", "--no-verify")
    assert not keys.keys() & open_neox(tmp_path / "back").keys.keys()


@given(st.integers(2, 9), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 3.0]))
@settings(max_examples=20, deadline=None)
def test_sums_of_gradients_are_means_with_smaller_constants(n: int, seed: int, clip: float) -> None:
    """n-fold gradients, moments, eps and threshold: the same updates (float64 rounding)."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):

        def updates(times: float) -> np.ndarray:
            threshold = [optax.clip_by_global_norm(clip * times)] if clip else []
            adam = optax.chain(*threshold, optax.scale_by_adam(0.9, 0.95, eps=1e-8 * times))
            state = adam.init(jnp.zeros(3, jnp.float64))
            moments = {"mu": np.ones(3) * 1e-3 * times, "nu": np.ones(3) * 1e-6 * times**2}
            own = state[-1]._replace(**{k: jnp.asarray(v) for k, v in moments.items()})
            state = (*state[:-1], own._replace(count=jnp.int32(7)))
            found = []
            for gradient in gradients:
                update, state = adam.update(jnp.asarray(gradient * times), state)
                found.append(np.asarray(update))
            return np.stack(found)

        gradients = rng.normal(size=(4, 3)) * 10.0 ** rng.integers(-9, 1, (4, 3))
        np.testing.assert_allclose(updates(float(n)), updates(1.0), rtol=1e-11)


def test_summed_gradients_of_the_pipeline(tmp_path: Path) -> None:
    """Four micro-batches: moments a quarter and a sixteenth, eps and threshold a quarter."""
    source = copied("legacy_v2_mp2_pp2", tmp_path)
    for path in source.glob("global_step5/mp_rank_*"):
        state = torch.load(path, weights_only=False)
        state["ds_config"]["gradient_accumulation_steps"] = 4
        torch.save(state, path)
    call(from_neox, source, tmp_path / "four", "--optimizer", "--no-verify")
    one = find_case("legacy_v2_mp2_pp2", optimizer=True).folder
    call(from_neox, one, tmp_path / "one", "--optimizer", "--no-verify")
    for ours, times in (("mu", 4.0), ("nu", 16.0)):
        four, single = (
            JaxneoxMoments(checkpoint.find(str(tmp_path / name)), ours)  # type: ignore[arg-type]
            for name in ("four", "one")
        )
        for name in four.shapes:
            np.testing.assert_array_equal(four.leaf(name) * np.float32(times), single.leaf(name))
    keys = [
        checkpoint.read_meta(checkpoint.find(str(tmp_path / name)))["keys"]
        for name in ("four", "one")
    ]
    assert keys[0]["gradient_clipping"] == 0.25 and keys[1]["gradient_clipping"] == 1.0
    assert keys[0]["optimizer"]["params"]["eps"] == 2.5e-9
    page = (tmp_path / "four" / "certificate.md").read_text()
    assert "sums gradients over 4 micro-batches" in page


@pytest.mark.parametrize(
    ("name", "mp", "pp", "dp"),
    [("seqres_mp2", 4, 0, 1), ("tied_mp1_pp2", 2, 2, 1), ("bf16_mp2", 1, 2, 2)],
)
def test_there_and_back(tmp_path: Path, name: str, mp: int, pp: int, dp: int) -> None:
    """The moments' bits, whatever the ranks (the biases' too: copies have them whole)."""
    case = find_case(name, optimizer=True)
    first, back, again = (tmp_path / name for name in ("first", "back", "again"))
    call(from_neox, case.folder, first, "--optimizer", "--no-verify")
    layout = ("--mp", mp, "--pp", pp, "--dp", dp)
    call(to_neox, first, back, *layout, "--optimizer", "--no-verify")
    call(from_neox, back, again, "--optimizer", "--no-verify")
    for ours in ("mu", "nu"):
        one, other = (
            JaxneoxMoments(checkpoint.find(str(folder)), ours)  # type: ignore[arg-type]
            for folder in (first, again)
        )
        assert (one.updates, one.position) == (other.updates, other.position)
        for leaf in one.shapes:
            np.testing.assert_array_equal(one.leaf(leaf), other.leaf(leaf), err_msg=leaf)
    for leaf in ("layers.mlp.up", "embed.tokens", "final_norm.scale"):
        np.testing.assert_array_equal(open_leaf(first, leaf), open_leaf(again, leaf))


def test_stages_are_deepspeeds() -> None:
    """As its own function cuts them (0.16.5), and as the golden files are cut."""
    assert balanced([0, 0, 1, 1, 0, 0, 0], 2) == [0, 3, 7]
    assert balanced([0, 0, 1, 1, 1, 1, 0, 0, 0], 3) == [0, 4, 5, 9]
    assert [list(part) for part in stage_modules(6, 4, "uniform")] == [
        [0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10],
    ]  # fmt: skip
    state = open_optimizer(open_neox(find_case("legacy_v2_mp2_pp2", optimizer=True).folder))
    layers = max(index for stage in state.stages for index in stage) - 4
    for ours, theirs in zip(
        stage_modules(layers, 2, "type:transformer|mlp"), state.stages, strict=True
    ):
        assert set(theirs) <= set(ours)


def copied(name: str, folder: Path) -> Path:
    target = folder / "source"
    shutil.copytree(find_case(name, optimizer=True).folder, target)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def refusal(source: Path, folder: Path) -> str:
    said = run(from_neox, source, folder / "dst", "--optimizer", "--no-verify")
    assert said.status == 2 and not (folder / "dst").exists()
    assert "without --optimizer" in said.error
    return said.error


def test_a_missing_partition(tmp_path: Path) -> None:
    source = copied("zero1_dp2_mp2", tmp_path)
    name = "zero_pp_rank_1_mp_rank_01_optim_states.pt"
    (source / "global_step5" / name).unlink()
    assert f"missing {name}" in refusal(source, tmp_path)


def test_partitions_of_another_step(tmp_path: Path) -> None:
    source = copied("zero1_dp2_mp2", tmp_path)
    weights = source / "global_step5" / "layer_02-model_00-model_states.pt"
    tensors = torch.load(weights, weights_only=True)
    tensors["attention.dense.weight"] = tensors["attention.dense.weight"] + 1
    torch.save(tensors, weights)
    line = refusal(source, tmp_path)
    assert "attention.dense.weight of module 2, rank 0, is not the weight that was saved" in line


def test_another_order_of_groups(tmp_path: Path) -> None:
    source = copied("legacy_v2_mp2_pp2", tmp_path)
    path = source / "global_step5" / "mp_rank_00_model_states.pt"
    state = torch.load(path, weights_only=False)
    state["optimizer"]["param_groups"].reverse()
    torch.save(state, path)
    assert "its optimizer has groups of" in refusal(source, tmp_path)


def test_no_optimizer(tmp_path: Path) -> None:
    source = copied("legacy_v2_mp2_pp2", tmp_path)
    path = source / "global_step5" / "mp_rank_01_model_states.pt"
    state = torch.load(path, weights_only=False)
    state["optimizer"] = None
    torch.save(state, path)
    assert "holds no optimizer that is known" in refusal(source, tmp_path)


def test_drifted_norms_are_averaged_and_it_says_so(tmp_path: Path) -> None:
    call(
        from_neox,
        find_case("pythia_mp2_drift", optimizer=True).folder,
        tmp_path / "run",
        "--optimizer",
    )
    page = (tmp_path / "run" / "certificate.md").read_text()
    assert "have drifted; to go on training they are one copy" in page
    assert "NOT the same function" in page or "asked for" in page


class DynamicLossScaler:
    """Stands for DeepSpeed's class of this name, by which the file knows it."""


@pytest.fixture
def deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its classes that the golden files name, so that torch can load and save them."""
    places = {
        "deepspeed.runtime.fp16.loss_scaler": ("LossScaler", DynamicLossScaler),
        "deepspeed.runtime.zero.config": ("ZeroStageEnum",),
        "deepspeed.utils.tensor_fragment": ("fragment_address",),
    }
    for module, names in places.items():
        parts = module.split(".")
        for k in range(1, len(parts) + 1):
            name = ".".join(parts[:k])
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        for entry in names:
            kind = entry if isinstance(entry, type) else type(entry, (Kept,), {})
            monkeypatch.setattr(kind, "__module__", module)
            setattr(sys.modules[module], kind.__name__, kind)


class Kept(tuple):
    """Of what is only carried along: whatever it was made of."""

    def __new__(cls, *arguments: object) -> "Kept":
        return super().__new__(cls, arguments)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), tuple(self)


def test_float16_with_a_moving_loss_scale(tmp_path: Path, deepspeed: None) -> None:
    source = copied("zero1_dp2_mp2", tmp_path)
    for path in source.glob("global_step5/layer_*"):
        tensors = torch.load(path, weights_only=True)
        torch.save({name: tensor.half() for name, tensor in tensors.items()}, path)
    scaler = DynamicLossScaler()
    scaler.__dict__ |= {
        "cur_scale": 4096.0, "cur_iter": 5, "last_overflow_iter": 1, "cur_hysteresis": 1,
    }  # fmt: skip
    for path in source.glob("global_step5/zero_pp_rank_*"):
        state = torch.load(path, weights_only=False)
        state["optimizer_state_dict"] |= {"loss_scaler": scaler, "dynamic_loss_scale": True}
        torch.save(state, path)
    yaml = next(source.glob("global_step5/configs/*.yml"))
    yaml.write_text(yaml.read_text().replace("precision: fp32", "precision: fp16"))
    call(from_neox, source, tmp_path / "run", "--optimizer", "--no-verify")
    training = JaxneoxMoments(checkpoint.find(str(tmp_path / "run")), "mu")
    found = [training._stored("training", f"scale.{name}").read().result().item() for name in
             ("factor", "calm", "patience")]  # fmt: skip
    assert found == [4096.0, 3, 1]
    assert open_leaf(tmp_path / "run", "embed.tokens").dtype == np.float32
