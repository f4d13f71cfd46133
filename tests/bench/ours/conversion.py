"""`python -m convert.from_hf`, called in this process."""

import shutil
from collections.abc import Callable
from pathlib import Path

from convert import from_hf
from tests.bench.clock import Seconds, seconds
from tests.bench.sizes import Case
from tests.convert.commands import call


def plain(case: Case) -> Callable[[], Seconds]:
    """-> the checkpoint `hf` of the case's folder converted, its function not proved."""
    return converting(case, "plain", "--no-verify")


def proved(case: Case) -> Callable[[], Seconds]:
    """-> as it is without any option: with the proof that the function is the same."""
    return converting(case, "proved")


def converting(case: Case, name: str, *options: str) -> Callable[[], Seconds]:
    source, made = Path(case.folder) / "hf", Path(case.folder) / name

    def run() -> Seconds:
        took = seconds(lambda: call(from_hf, source, made, *options))
        shutil.rmtree(made)
        return Seconds(took)

    return run
