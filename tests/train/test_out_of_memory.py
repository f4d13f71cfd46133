"""A run that does not fit says in one line what was asked for, and what would fit."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

from jaxneox.config import Settings
from jaxneox.parallel.mesh import make_mesh
from jaxneox.train import out_of_memory as module
from jaxneox.train.loop import loop
from jaxneox.train.plan import build_plan
from tests.train.runs import KEYS, command, error, write_yaml

ASKED = "RESOURCE_EXHAUSTED: Out of memory allocating 7738860752 bytes."


def fail(words: str) -> Any:
    def step(*args: Any) -> Any:
        raise jax.errors.JaxRuntimeError(words)

    return lambda *args: step


class Hint(NamedTuple):
    """What is said to fit: how much it takes, and the words for --set."""

    mebibytes: float
    words: list[str]


def hinted(line: str) -> Hint:
    found = re.search(r"With about ([\d.]+) (KiB|MiB|GiB) this should fit: --set (.*)", line)
    assert found is not None, line
    unit = {"KiB": 2**-10, "MiB": 1.0, "GiB": 2.0**10}[found[2]]
    return Hint(float(found[1]) * unit, found[3].split())


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    return write_yaml(tmp_path)


def test_what_was_asked_for_and_what_would_fit(yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "build_step", fail(ASKED))
    # all but the small state grows with the micro-batch: one of two takes half of what was asked
    monkeypatch.setattr(module, "memory_of_device", lambda device: 10 * 2**30)
    said = error(yaml, "--mesh", "dp=1")
    assert "out of memory when 7.21 GiB more were asked for: a device has 10 GiB; " in said
    assert "a micro-batch of 4 keeps" in said
    hint = hinted(said)
    assert 3.5 < hint.mebibytes / 2**10 < 4.2
    assert hint.words == ["train_batch_size=4", "train_micro_batch_size_per_gpu=2"]
    monkeypatch.undo()
    outcome = command(yaml, "--mesh", "dp=1", "--set", *hint.words, "train-iters=2")
    assert outcome.code == 0 and "4 sequences of 16 tokens a step = 2 x 2" in outcome.out


def test_what_never_fits_needs_more_devices(yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "build_step", fail(ASKED))
    monkeypatch.setattr(module, "memory_of_device", lambda device: 2**10)
    assert "split the model over more devices with --mesh tp=" in error(yaml, "--mesh", "dp=1")


def test_other_errors_stay_what_they_are(yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "build_step", fail("INTERNAL: something else"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        command(yaml, "--mesh", "dp=1")


def test_recomputation_comes_after_smaller_micro_batches() -> None:
    """Also where a remat policy is set, which checkpoint-activations would not change."""
    keys = {name.replace("-", "_"): value for name, value in KEYS.items()}
    cfg = Settings(keys | {"remat_policy": "dots"}).resolve(dp=1, vocab_size=512)
    plan = build_plan(cfg, {"dp": 1})
    changes = [change.words for change in module._changes(plan)]
    micro = ["train_batch_size=4", "train_micro_batch_size_per_gpu="]
    cut = [[micro[0], f"{micro[1]}{size}"] for size in (2, 1)]
    full = [["remat-policy=full", micro[0], f"{micro[1]}{size}"] for size in (4, 2, 1)]
    assert changes == cut + full
    needs = []
    for change in module._changes(plan):
        changed = Settings(change.keys).resolve(dp=1, vocab_size=512)
        needs.append(module.memory_of(build_plan(changed, {"dp": 1}), make_mesh({"dp": 1})).known)
    assert needs[1] < needs[0] and needs[4] < needs[1]  # what is asked for takes less
    has = int(needs[4] / module.USABLE) + 1
    assert module._advice(plan, has, 1.0).endswith(f"--set {' '.join(full[2])}")
