"""Which samples a run takes when its batch grows, or is changed on the way."""

from pathlib import Path

import numpy as np
import pytest

from jaxneox.data import BatchSizes
from jaxneox.data.loader import SampleLoader
from tests.train.runs import command, losses, metrics, succeeds, write_yaml


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The numbers of all samples that training asks for, step by step."""
    asked: list[list[int]] = []
    numbers = SampleLoader.numbers

    def noted(loader: SampleLoader, step: int, rows: slice = slice(None)) -> np.ndarray:
        found = numbers(loader, step, rows)
        asked.append(found.tolist())
        return found

    monkeypatch.setattr(SampleLoader, "numbers", noted)
    return asked


@pytest.mark.slow
def test_a_growing_batch_also_after_a_restart(tmp_path: Path) -> None:
    yaml = write_yaml(tmp_path, rampup_batch_size=[2, 2, 5], train_iters=6)
    whole = tmp_path / "whole"
    succeeds(yaml, "--mesh", "dp=1", "--save", whole)
    sizes = [2, 2, 2, 4, 4, 4]
    assert [row["tokens"] for row in metrics(whole)] == [16 * size for size in sizes]
    succeeds(yaml, "--mesh", "dp=1", "--save", tmp_path / "run", "--set", "exit-interval=2")
    succeeds(tmp_path / "run", "--mesh", "dp=1", "--set", "exit-interval=null")
    assert losses(tmp_path / "run") == losses(whole)


@pytest.mark.slow
def test_a_changed_batch_leaves_out_no_sample(tmp_path: Path, samples: list[list[int]]) -> None:
    yaml = write_yaml(tmp_path, train_iters=3, do_valid=False, do_test=False)
    run = tmp_path / "run"
    succeeds(yaml, "--mesh", "dp=1", "--save", run)
    allow = ("--allow-data-change", "--set", "train-batch-size=6", "train-iters=5")
    assert command(run, "--mesh", "dp=1", *allow).code == 0
    assert command(run, "--mesh", "dp=1", "--set", "train-iters=7").code == 0
    taken = sorted({number for asked in samples for number in asked})
    used = 3 * 4 + 4 * 6
    assert taken[:used] == list(range(used)) and len(samples[0]) == 4
    assert [row["tokens"] for row in metrics(run)] == [64] * 3 + [96] * 4


def test_sizes_of_the_past_count() -> None:
    sizes = BatchSizes(6)
    sizes.follow(BatchSizes(4).stages, 3, changed=True)
    assert [(sizes.first(step), sizes.size(step)) for step in (0, 2, 3, 5)] == [
        (0, 4), (8, 4), (12, 6), (24, 6),
    ]  # fmt: skip
    again = BatchSizes(6)
    again.follow(sizes.stages, 5, changed=False)
    assert again.stages == sizes.stages
    third = BatchSizes(8, (2, 2, 60))
    third.follow(sizes.stages, 5, changed=True)
    # the ramp goes by samples: of 60, 24 are past
    assert [stage.size for stage in third.stages] == [4, 6, 4, 6, 8]
    assert third.first(5) == 24


@pytest.mark.slow
def test_waiting_for_data_is_logged(tmp_path: Path) -> None:
    yaml = write_yaml(tmp_path, train_iters=2)
    succeeds(yaml, "--mesh", "dp=1", "--save", tmp_path / "run")
    text = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all('"data_wait": ' in line for line in text) and len(text) == 2
