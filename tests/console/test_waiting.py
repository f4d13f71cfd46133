"""What takes long says so, and what is quick says nothing."""

import time

import pytest

from jaxneox.console.waiting import PATIENCE, waiting
from jaxneox.errors import UserError


def test_only_what_takes_long_has_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PATIENCE, "1")
    with waiting("counting"):
        pass
    time.sleep(1.1)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(PATIENCE, "0.05")
    with waiting("compiling the step"):
        time.sleep(0.3)
    assert capsys.readouterr().err == "compiling the step …\n"


def test_what_fails_waits_no_longer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PATIENCE, "1")
    with pytest.raises(ValueError, match="no"), waiting("reading"):
        raise ValueError("no")
    time.sleep(1.1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("wrong", ["soon", "-1", "nan", "1e400"])
def test_a_patience_that_is_no_time_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, wrong)
    with pytest.raises(UserError, match=f"JAXNEOX_PATIENCE: found '{wrong}'"), waiting("reading"):
        pass
