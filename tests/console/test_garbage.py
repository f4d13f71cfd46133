"""Python's collector rests while a program starts, and not longer."""

import gc
from collections.abc import Iterator

import pytest

from jaxneox.console import garbage
from tests.train.runs import command


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.enable()


def test_nothing_is_collected_during_a_start() -> None:
    with garbage.resting():
        assert not gc.isenabled()
        garbage.started()
        assert gc.isenabled()
    assert gc.isenabled()


def test_a_start_that_fails_leaves_nothing_behind() -> None:
    with pytest.raises(ValueError, match="bad"), garbage.resting():
        raise ValueError("bad")
    assert gc.isenabled()
    assert command("--mesh", "dp=nothing").code == 2
    assert gc.isenabled()


def test_who_did_not_ask_for_it_is_left_alone() -> None:
    """`jaxneox.fit` runs the same loop in a program of somebody else."""
    gc.disable()
    garbage.started()
    with garbage.resting():
        garbage.started()
    assert not gc.isenabled()
