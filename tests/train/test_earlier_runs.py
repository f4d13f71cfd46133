"""A run of an earlier version goes on here, and its checkpoint opens."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxneox
from tests.train.runs import ROOT, metrics, succeeds

EARLIER = sorted((ROOT / "tests" / "golden").glob("run_*"))


@pytest.fixture(params=EARLIER, ids=lambda folder: folder.name)
def earlier(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the run beside its data, where its relative paths mean what they meant."""
    shutil.copytree(request.param, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["dp=1", "dp=2,tp=2"])
def test_it_goes_on_with_the_losses_it_had(earlier: Path, mesh: str) -> None:
    out = succeeds("run", "--mesh", mesh)
    assert "continuing at step 5 of 10" in out
    expected = json.loads((earlier / "losses.json").read_text())
    found = {str(row["step"]): row for row in metrics(earlier / "run") if row["step"] > 5}
    assert found.keys() == expected.keys()
    for step, row in expected.items():
        # five steps in float32, on another CPU or mesh: as in docs/meshes.md
        assert found[step]["loss"] == pytest.approx(row["loss"], rel=1e-6), step
        assert found[step]["lr"] == pytest.approx(row["lr"], rel=1e-6), step


@pytest.mark.slow
def test_its_checkpoint_opens(earlier: Path) -> None:
    model = jaxneox.load("run")
    assert model(np.arange(8)[None]).shape == (1, 8, 512)
    (answer,) = model.generate(["the old"], max_tokens=4)
    assert len(answer.tokens) == 4
