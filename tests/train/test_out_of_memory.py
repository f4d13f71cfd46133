"""A run that does not fit says in one line what was asked for, and what would fit."""

import re
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxneox.train import out_of_memory as module
from jaxneox.train.loop import loop
from tests.train.runs import command, error, write_yaml

ASKED = "RESOURCE_EXHAUSTED: Out of memory allocating 7738860752 bytes."


def fail(words: str) -> Any:
    def step(*args: Any) -> Any:
        raise jax.errors.JaxRuntimeError(words)

    return lambda *args: step


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
    hint = re.search(r"With about ([\d.]+) GiB this should fit: --set (.*)", said)
    assert hint is not None and 3.5 < float(hint[1]) < 4.2
    assert hint[2] == "train_batch_size=4 train_micro_batch_size_per_gpu=2"
    monkeypatch.undo()
    settings = hint[2].split()
    outcome = command(yaml, "--mesh", "dp=1", "--set", *settings, "train-iters=2")
    assert outcome.code == 0 and "4 sequences of 16 tokens a step = 2 x 2" in outcome.out


def test_what_never_fits_needs_more_devices(yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "build_step", fail(ASKED))
    monkeypatch.setattr(module, "memory_of_device", lambda device: 2**10)
    assert "split the model over more devices with --mesh tp=" in error(yaml, "--mesh", "dp=1")


def test_other_errors_stay_what_they_are(yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "build_step", fail("INTERNAL: something else"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        command(yaml, "--mesh", "dp=1")
