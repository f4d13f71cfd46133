"""`pytest --golden-only`: also where the cases of a test are found with the data."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import golden_only


def test_cases_that_are_found_only_with_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipped = ["t/a.py::test_each[none]", "t/a.py::test_named[x]", "t/whole.py"]
    listed = tmp_path / "listed.json"
    listed.write_text(json.dumps(skipped))
    monkeypatch.setattr(golden_only, "LISTED", listed)
    chosen = ["t/a.py::test_each[dpo]", "t/a.py::test_each[kto]", "t/a.py::test_named[x]"]
    chosen += ["t/whole.py::test_all"]
    others = ["t/a.py::test_named[y]", "t/a.py::test_each_other[dpo]", "t/b.py::test_all"]
    config: Any = SimpleNamespace(getoption=lambda name: True)
    items: Any = [SimpleNamespace(nodeid=nodeid) for nodeid in chosen + others]
    golden_only.pytest_collection_modifyitems(config, items)
    assert [item.nodeid for item in items] == chosen
