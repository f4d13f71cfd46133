"""Runs side by side, as their files tell."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from jaxneox.compare.command import main
from jaxneox.compare.picture import smooth


def write_run(folder: Path, losses: list[float | None], **keys: Any) -> Path:
    folder.mkdir()
    rows = [
        {"step": i, "loss": loss, "tokens": 64, "seconds": 9.0 if i == 1 else 0.5}
        for i, loss in enumerate(losses, 1)
    ]
    rows[-1]["valid_loss"] = 2.5
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yml").write_text(yaml.safe_dump({"save": str(folder), "seed": 1} | keys))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    first = write_run(tmp_path / "a", [3.0] * 18 + [2.0, 1.0], optimizer={"params": {"lr": 0.1}})
    other = write_run(tmp_path / "b", [4.0] * 19 + [None], optimizer={"params": {"lr": 0.2}})
    return [str(first), str(other)]


def said(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    out, err = capsys.readouterr()
    assert ended.value.code == status, err
    return out if status == 0 else err


def test_a_table_of_figures_and_differences(
    runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line.split() for line in said(capsys, *runs).splitlines()]
    assert lines[1] == [runs[0], "20", "1,280", "1.5000", "2.5000", "128"]
    assert lines[2] == [runs[1], "20", "1,280", "4.0000", "2.5000", "128"]
    assert lines[4:] == [["they", "differ", "in", "a", "b"], ["optimizer.params.lr", "0.1", "0.2"]]


def test_the_step_that_compiles_tells_nothing_of_the_speed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "short", [3.0, 2.0])
    assert said(capsys, str(run)).splitlines()[1].split()[-1] == "128"


def test_the_same_for_a_program(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(said(capsys, *runs, "--json"))
    assert [one["loss"] for one in record["runs"]] == [1.5, 4.0]
    assert record["differ"] == {"optimizer.params.lr": [0.1, 0.2]}


def test_a_picture(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "losses.png" in said(capsys, *runs, "--png", str(tmp_path / "losses.png"))
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_a_smooth_line_begins_where_the_losses_do() -> None:
    assert smooth([4.0, 4.0, 4.0]) == pytest.approx([4.0] * 3)
    falling = smooth([5.0, 4.0, 3.0])
    assert falling[0] == 5.0 and 3.0 < falling[2] < 4.0
    assert smooth([]) == []


def test_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no metrics.jsonl; expected the folder of a run" in said(
        capsys, str(tmp_path / "empty"), status=2
    )
    (tmp_path / "empty/metrics.jsonl").write_text("")
    assert "has no step yet" in said(capsys, str(tmp_path / "empty"), status=2)
