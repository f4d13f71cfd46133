"""What takes long says so, and what is quick says nothing."""

import time

import pytest

from jaxneox.console.waiting import PATIENCE, waiting


def test_only_what_takes_long_has_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PATIENCE, "0.05")
    with waiting("counting"):
        pass
    time.sleep(0.15)
    assert capsys.readouterr().err == ""
    with waiting("compiling the step"):
        time.sleep(0.3)
    assert capsys.readouterr().err == "compiling the step …\n"


def test_what_fails_waits_no_longer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PATIENCE, "0.05")
    with pytest.raises(ValueError, match="no"), waiting("reading"):
        raise ValueError("no")
    time.sleep(0.15)
    assert capsys.readouterr().err == ""
