"""Python's collector rests while a program starts, and not longer."""

import gc
from collections.abc import Iterator

import pytest

from jaxneox.console import garbage


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_during_a_start() -> None:
    garbage.starting()
    assert not gc.isenabled()
    garbage.started()
    assert gc.isenabled() and gc.get_freeze_count() > 1000  # what is there is not looked at again


def test_who_did_not_ask_for_it_is_left_alone() -> None:
    """`jaxneox.fit` runs the same loop in a program of somebody else."""
    before = gc.get_freeze_count()
    garbage.started()
    assert gc.get_freeze_count() == before
    gc.disable()
    garbage.starting()
    garbage.started()
    assert not gc.isenabled()
