"""`pytest --fast`: the tests of some minutes that start no program.

What takes long or starts another program is marked `slow`, a test or a whole module, and left out.
A test that starts one by `subprocess` without the mark fails here, so that the mark stays true.
"""

import subprocess
from collections.abc import Iterator

import pytest

WHY = "this test starts a program: mark it slow, since --fast is for those that do not"


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


@pytest.fixture(scope="session", autouse=True)
def no_program(request: pytest.FixtureRequest) -> Iterator[None]:
    if not request.config.getoption("--fast"):
        yield
        return

    def refused(*args: object, **kwargs: object) -> None:
        raise AssertionError(WHY)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", refused)
        patch.setattr(subprocess.Popen, "__del__", lambda self: None)
        yield
