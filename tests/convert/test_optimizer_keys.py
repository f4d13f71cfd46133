"""An imported training under other keys than its own: whole, and not in silence."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from convert import from_neox
from jaxneox.train.command import main as train
from tests.convert.commands import call
from tests.convert.golden import find_case


def trained(*argv: Any) -> str:
    """What a training said, which has to succeed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            train([str(arg) for arg in argv])
        except SystemExit as stop:
            assert stop.code == 0, said.getvalue()
    return said.getvalue()


def test_without_its_factors_it_goes_on_and_says_so(tmp_path: Path) -> None:
    """They are no part of the optimizer's arrays: the checkpoint was taken for a damaged one."""
    case = find_case("pythia_mp2", optimizer=True)
    run = tmp_path / "run"
    call(from_neox, case.folder, run, "--optimizer", "--no-verify")
    with np.load(case.folder / "golden.npz") as golden:
        for k in range(2):
            np.savez(tmp_path / f"{k}.npz", tokens=golden["train_tokens"][k : k + 1])
    flags = ("--mesh", "dp=1", "--allow-data-change", "--tokens")
    assert "not given here" not in trained(run, *flags, tmp_path / "0.npz")
    keys = yaml.safe_load((run / "config.yml").read_text())
    assert keys.pop("lr_factors")
    (run / "config.yml").write_text(yaml.safe_dump(keys))
    said = trained(run, *flags, tmp_path / "1.npz")
    assert "continuing at step 6" in said
    assert "lr_factors is" in said and "not given here" in said
    assert {p.name for p in run.iterdir() if "step" in p.name} == {"step_5", "step_6", "step_7"}
