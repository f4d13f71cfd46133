"""Tests that are marked `slow` start programs or take long; `pytest --fast` leaves them out.

With `--fast` a test that starts any program by `subprocess` fails, and in every run one without the
mark that starts Python, so that the mark stays true: what a library starts for itself differs from
machine to machine. The renderer of chat templates does not count: it starts within 0.2 s.
"""

import subprocess
import sys
from collections.abc import Generator, Sequence
from functools import partialmethod
from typing import Any

import pytest

from jaxneox.templates.limited import PROGRAM

WHY = "this test starts a program: mark it slow, since --fast is for those that do not"
STARTS = subprocess.Popen.__init__


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out tests that are marked slow")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes long or starts a program; not for --fast")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--fast"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if not item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if item.get_closest_marker("slow"):
        return (yield)
    fast = item.config.getoption("--fast")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", partialmethod(start, anything=not fast))
        patch.setattr(subprocess.Popen, "__del__", lambda self: None)
        return (yield)


def start(
    self: subprocess.Popen, args: str | Sequence[str], *more: Any, anything: bool, **how: Any
) -> None:
    """Start a program, but for Python; with `anything` false the renderer alone."""
    words = [args] if isinstance(args, str) else list(args)
    allowed = PROGRAM in words or (anything and sys.executable not in words)
    if not allowed:
        raise AssertionError(WHY)
    STARTS(self, args, *more, **how)
