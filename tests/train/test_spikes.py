"""Spikes of the loss: which are said, where they are written, and that nothing else is."""

import json
import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxneox.data import BatchSizes
from jaxneox.data.loader import SampleLoader
from jaxneox.train.loop import loop
from jaxneox.train.reporting.spikes import MIN_LOSSES, WINDOW, Spikes
from tests.train.runs import succeeds, write_yaml


def noisy(steps: int, spread: float = 0.05, seed: int = 0) -> list[float]:
    """A loss that falls from 5 to 2 with noise."""
    chance = random.Random(seed)
    return [2 + 3 * 0.99**i + chance.gauss(0, spread) for i in range(steps)]


def said(losses: list[float], factor: float = 6.0) -> dict[int, float]:
    spikes = Spikes(factor)
    found = ((i, spikes.add(loss)) for i, loss in enumerate(losses))
    return {i: deviations for i, deviations in found if deviations is not None}


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_curve_has_none(seed: int) -> None:
    assert said(noisy(2000, seed=seed)) == {}
    assert said([2.0] * 500) == {}
    assert said([2.0 + 1e-6 * (i % 2) for i in range(500)] + [2.0 + 1e-5]) == {}


def test_a_spike_is_said_each_step_that_it_lasts() -> None:
    losses = noisy(500)
    losses[400] += 1.0
    losses[450:460] = [3.0] * 10
    assert set(said(losses)) == {400, *range(450, 460)}
    assert said(losses, factor=30) == said(losses, factor=0) == {}


def test_deviations_are_standard_ones() -> None:
    """1 above a noise of 0.05 is 20; one window knows its spread to 10 %, thirty of them to 2 %."""
    found = [said([*noisy(900, seed=seed)[500:], 3.0])[400] for seed in range(30)]
    assert statistics.mean(found) == pytest.approx(20, rel=0.06)


def test_a_new_level_is_none_once_it_fills_half_of_the_window() -> None:
    found = said([2.0] * 300 + [3.0] * 300)
    assert set(found) == set(range(300, 300 + WINDOW // 2))


def test_nothing_is_said_before_there_is_enough_to_compare_with() -> None:
    assert set(said([2.0] * (MIN_LOSSES - 1) + [9.0])) == set()
    assert set(said([2.0] * MIN_LOSSES + [9.0])) == {MIN_LOSSES}


def test_what_is_not_finite_is_no_spike_and_leaves_no_trace() -> None:
    bad = [float("nan"), float("inf")] * 100
    assert said([2.0] * 100 + bad + [2.0] * 10 + [4.0]) == {310: 1000.0}


def test_a_step_has_the_numbers_of_its_samples() -> None:
    class Eleven:
        endless = False

        def __len__(self) -> int:
            return 11

    loader = SampleLoader(Eleven(), sizes=BatchSizes(4), seq_length=2)  # type: ignore[arg-type]
    assert [loader.sample_numbers(step) for step in range(3)] == [(0, 3), (4, 7), (0, 3)]
    loader = SampleLoader(Eleven(), sizes=BatchSizes(4), seq_length=2, drop_last=2)  # type: ignore[arg-type]
    assert [loader.sample_numbers(step) for step in (1, 2, 3)] == [(4, 7), (8, 1), (2, 5)]


def losses_changed(monkeypatch: pytest.MonkeyPatch, change: dict[int, float]) -> None:
    """The step's loss is 2 but where `change` says otherwise, by the number of the step."""
    build = loop.build_step

    def build_other(*args: Any) -> Any:
        step = build(*args)

        def other(state: Any, batch: Any) -> Any:
            number = int(state.step) + 1
            state, figures = step(state, batch)
            return state, figures | {"loss": np.float32(change.get(number, 2.0))}

        return other

    monkeypatch.setattr(loop, "build_step", build_other)


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_says_it_once_writes_it_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_changed(monkeypatch, {70: 4.0})
    yaml, run = write_yaml(tmp_path, train_iters=72, checkpoint_factor=100), tmp_path / "run"
    out = succeeds(yaml, "--mesh", "dp=1", "--save", run)
    (line,) = (line for line in out.splitlines() if "spike" in line)
    assert line == (
        "step     70  loss 4.0000 is a spike: 1000.0 deviations above the median of the last 70; "
        "samples 276 to 279"
    )
    assert len(rows(run)) == 72
    (row,) = (row for row in rows(run) if "spike" in row)
    assert (row["step"], row["first_sample"], row["last_sample"]) == (70, 276, 279)
    assert row["spike"] == pytest.approx(1000)
    assert not any("first_sample" in row for row in rows(run) if row["step"] != 70)


@pytest.mark.slow
def test_a_continued_run_finds_what_an_unbroken_one_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_changed(monkeypatch, {72: 4.0})
    yaml, run = write_yaml(tmp_path, train_iters=72, checkpoint_factor=100), tmp_path / "run"
    succeeds(yaml, "--mesh", "dp=1", "--save", run, "--set", "exit-interval=70")
    out = succeeds(run, "--mesh", "dp=1", "--set", "exit-interval=null")
    assert "above the median of the last 72; samples 284 to 287" in out
