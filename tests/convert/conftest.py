"""Golden checkpoints, and what they become: each is converted once for all tests."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the tests of conversion write torch files")

from convert import from_neox
from tests.convert.commands import call
from tests.convert.golden import Golden, find_case


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory):
    """`converted(name)`: a golden case and its conversion without proof, made at the first call."""
    done: dict[str, Path] = {}

    def convert(name: str) -> tuple[Golden, Path]:
        case = find_case(name)
        if name not in done:
            dst = tmp_path_factory.mktemp("converted") / name
            call(from_neox, case.folder, dst, "--no-verify")
            done[name] = dst
        return case, done[name]

    return convert
