"""Trainings that Megatron-LM began go on here: the state after its step, and our next step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import from_megatron
from convert.megatron.training_in import training_keys
from convert.readers.jaxneox import JaxneoxCheckpoint, JaxneoxMoments
from convert.readers.megatron import open_megatron
from convert.readers.megatron_optimizer import MegatronOptimizer, open_optimizer
from jaxneox import checkpoint
from jaxneox.optim.optimizer import decays
from tests.convert.commands import call, run
from tests.convert.continued import finish

CASES = [
    ("tiny_gpt2_pp2_adam", "legacy"),
    ("tiny_gpt2_dp2_distopt", "legacy"),
    ("tiny_gpt2_dp2_distopt", "torch_dist"),
]


def folder_of(shared: Path, name: str, kind: str) -> Path:
    path = shared / "golden" / "megatron" / name / kind
    if not path.is_dir():
        pytest.skip(f"{name}/{kind} is not among the golden cases here: set JAXNEOX_SHARED")
    return path


def state(run: Path, step: int) -> dict[str, dict[str, np.ndarray]]:
    """Weights and both moments of a step, in float64."""
    place = checkpoint.find(str(run), step)
    parts: dict[str, Any] = {
        "weight": JaxneoxCheckpoint(place),
        "mu": JaxneoxMoments(place, "mu"),
        "nu": JaxneoxMoments(place, "nu"),
    }
    return {
        part: {name: source.leaf(name).astype(np.float64) for name in source.shapes}
        for part, source in parts.items()
    }


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_next_step_is_adams(shared: Path, tmp_path: Path, name: str, kind: str) -> None:
    source = folder_of(shared, name, kind)
    dst = tmp_path / "run"
    call(from_megatron, source, dst, "--optimizer", "--no-verify")
    first = checkpoint.steps(dst)[-1]
    model = JaxneoxCheckpoint(checkpoint.find(str(dst))).model
    rows = np.random.default_rng(0).integers(0, model.vocab_size, (1, 2, model.seq_length + 1))
    np.savez(tmp_path / "tokens.npz", tokens=rows)
    finish([str(dst), "--mesh", "dp=1", "--tokens", str(tmp_path / "tokens.npz")])
    keys = checkpoint.read_meta(checkpoint.find(str(dst)))["keys"]
    lr, (b1, b2) = keys["optimizer"]["params"]["lr"], keys["optimizer"]["params"]["betas"]
    eps, decay = keys["optimizer"]["params"]["eps"], keys["weight_decay"]
    before, after = state(dst, first), state(dst, first + 1)
    count = JaxneoxMoments(checkpoint.find(str(dst), first + 1), "mu").updates
    assert count == 2
    for leaf, weight in before["weight"].items():
        mu, nu = after["mu"][leaf], after["nu"][leaf]
        gradient = (mu - b1 * before["mu"][leaf]) / (1 - b1)
        # float32 moments: their rounding, seen through 1 - b1 and 1 - b2
        scale = np.abs(nu).max() or 1.0
        expected = b2 * before["nu"][leaf] + (1 - b2) * gradient**2
        assert np.abs(nu - expected).max() <= 2e-6 * scale, leaf
        step = (mu / (1 - b1**count)) / (np.sqrt(nu / (1 - b2**count)) + eps)
        wanted = weight - lr * (step + decay * decays(leaf) * weight)
        difference = np.linalg.norm(after["weight"][leaf] - wanted)
        assert difference <= 1e-6 * np.linalg.norm(wanted), leaf


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_moments_are_those_of_the_files(shared: Path, tmp_path: Path, name: str, kind: str) -> None:
    source = folder_of(shared, name, kind)
    call(from_megatron, source, tmp_path / "run", "--optimizer", "--no-verify")
    theirs = open_optimizer(open_megatron(source))
    for ours, quantity in (("mu", "exp_avg"), ("nu", "exp_avg_sq")):
        moments = JaxneoxMoments(checkpoint.find(str(tmp_path / "run")), ours)  # type: ignore[arg-type]
        assert moments.updates == theirs.step == 1
        for leaf in moments.shapes:
            stacked = leaf.startswith("layers.")
            layers = range(moments.model.num_layers) if stacked else [None]
            for layer in layers:
                expected = theirs.kinds[quantity].leaf(leaf, layer)
                np.testing.assert_array_equal(moments.leaf(leaf, layer), expected, err_msg=leaf)
    page = (tmp_path / "run" / "certificate.md").read_text()
    assert "updates made" in page


def test_weights_alone_have_no_optimizer(shared: Path, tmp_path: Path) -> None:
    said = run(
        from_megatron, folder_of(shared, "gpt2_tp1", "legacy"), tmp_path / "run", "--optimizer"
    )
    assert said.status == 2 and "convert the weights alone" in said.error
    assert not (tmp_path / "run").exists()


def test_a_schedule_in_samples_and_what_is_not_the_same() -> None:
    group = {"lr": 1e-4, "max_lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    args: dict[str, Any] = {"train_iters": 100, "train_samples": 800, "lr_decay_samples": 640,
            "lr_warmup_iters": 0, "lr_warmup_samples": 64, "global_batch_size": 8,
            "lr_decay_style": "cosine"}  # fmt: skip
    optimizer = MegatronOptimizer(5, [group], {}, {"num_steps": 40})
    keys, notes = training_keys(args, optimizer, 5, "fp32")
    assert (keys["train_iters"], keys["lr_decay_iters"], keys["warmup"]) == (100, 80, 0.1)
    assert notes == []
    optimizer = MegatronOptimizer(5, [group | {"decoupled_weight_decay": False}], {})
    args |= {"consumed_train_samples": 41, "end_weight_decay": 0.2, "start_weight_decay": 0.1}
    keys, notes = training_keys(args, optimizer, 5, "fp32")
    assert keys["optimizer"]["params"]["adam_w_mode"] is False
    for words in ("consumed_train_samples is 41", "moved from start_weight"):
        assert words in " ".join(notes)
    said = " ".join(training_keys(args | {"rampup_batch_size": [2, 2, 9]}, optimizer, 5, "fp32")[1])
    assert "batch grew" in said and "is 41" not in said
