"""`pytest --golden-only`: the tests that the run before skipped for want of $JAXNEOX_SHARED.

The tests run first as a stranger has them, without the golden cases; what was skipped for want of
them then runs where they are.
"""

import json
import pathlib

import pytest

LISTED = pathlib.Path(__file__).resolve().parent.parent / ".cache" / "needs_golden.json"
FOR_WANT_OF = "JAXNEOX_SHARED"
"""Every skip for want of the golden cases says this word."""

skipped: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-only",
        action="store_true",
        help=f"run only what the run before skipped for want of ${FOR_WANT_OF}",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--golden-only"):
        return
    if not LISTED.is_file():
        raise pytest.UsageError(f"--golden-only: run the tests without ${FOR_WANT_OF} first")
    needed = json.loads(LISTED.read_text())  # of whole modules, or of single tests
    here = {item.nodeid for item in items}
    # A test for each golden case that is found has other cases here than where there were none.
    needed += [name.split("[")[0] + "[" for name in needed if "[" in name and name not in here]
    items[:] = [item for item in items if item.nodeid.startswith(tuple(needed))]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and FOR_WANT_OF in str(report.longrepr):
        skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    worker = hasattr(session.config, "workerinput")
    if not worker and not session.config.getoption("--golden-only"):
        LISTED.parent.mkdir(exist_ok=True)
        LISTED.write_text(json.dumps(sorted(skipped), indent=0))
