"""The bench: what it makes of its figures, what it says where it cannot measure."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import __main__ as bench
from tests.bench import missing
from tests.bench.kinds import KINDS, Kind
from tests.bench.sizes import Case
from tests.bench.table import tables
from tests.bench.turns import Result

CASE = Case("14m", 2, 8)
OURS = {"ours": "fakes:ours"}


def kind(contenders: dict[str, str], **changes: Any) -> Kind:
    given: dict[str, Any] = {"cpu": (CASE,), "gpu": (CASE,), "rounds": 2, "needs": ()}
    return Kind("work, {size}, {batch} x {length}", contenders, **given | changes)


def result(of: Kind, **seconds: list[float]) -> Result:
    return Result(of, CASE, seconds, dict.fromkeys(seconds, 9.0), dict.fromkeys(seconds, 2**29))


PEERS = kind(OURS | {"eager": "theirs.train:eager", "compiled": "theirs.train:compiled"})


def test_the_ratio_is_the_median_of_those_of_the_better_peer() -> None:
    """Its rounds have 3, 1/2 and 2; the ratio of the medians would be 3."""
    found = result(PEERS, ours=[1.0, 4.0, 2.0], eager=[3.0, 2.0, 4.0], compiled=[9.0, 9.0, 1.0])
    assert found.ratio == 2.0


def test_a_table_for_those_with_the_same_contenders() -> None:
    counted = kind(dict(PEERS.contenders), flops=lambda case: 1e9)
    rate = kind(OURS, unit="tokens/s", amount=lambda case: case.batch * 1000)
    results = [
        result(counted, ours=[0.5], eager=[1.0], compiled=[2.0]),
        result(PEERS, ours=[1.0], eager=[0.5], compiled=[2.0]),
        result(rate, ours=[0.5]),
        result(kind(OURS, unit="ms"), ours=[0.0005]),
    ]
    assert tables(results, {"float32": 4e9}).splitlines() == [
        "| | ours | eager | compiled | ratio | of the peak | memory, GiB: ours, eager, compiled |",
        "|---|---|---|---|---|---|---|",
        "| work, 14m, 2 x 8 | 0.500 s | 1.000 s | 2.000 s | 2.00 x | 50% | 0.50, 0.50, 0.50 |",
        "| work, 14m, 2 x 8 | 1.000 s | 0.500 s | 2.000 s | 0.50 x | | 0.50, 0.50, 0.50 |",
        "",
        "| | ours | memory, GiB |",
        "|---|---|---|",
        "| work, 14m, 2 x 8 | 4,000 tokens/s | 0.50 |",
        "| work, 14m, 2 x 8 | 0.50 ms | 0.50 |",
    ]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """`python -m tests.bench ARGS` in this process, with these kinds."""
    for name in {**bench.SHARED_GPU, **bench.WITHOUT_GPU}:
        monkeypatch.setenv(name, "")  # so that what the command sets is taken back

    def run(kinds: dict[str, Kind], *args: str | Path) -> Any:
        monkeypatch.setattr(bench, "KINDS", kinds)
        monkeypatch.setattr("sys.argv", ["bench", "--only", ",".join(kinds), *map(str, args)])
        with pytest.raises(SystemExit) as end:
            bench.main()
        return end.value.code

    return run


@pytest.mark.slow
def test_contenders_in_turns(command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes, one with words of its own; their own clocks count."""
    work = kind(OURS | {"other": "fakes:twice"})
    assert not command({"work": work}, "--json", tmp_path / "all.json")
    assert "| work, 14m, 2 x 8 | 2.000 s | 4.000 s |" in capsys.readouterr().out
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["versions"].keys() >= {"jax", "jaxlib"}
    assert found["results"][0]["seconds"] == {"ours": [2.0, 2.0], "other": [4.0, 4.0]}
    assert found["results"][0]["memory"]["other"] > 0
    assert found["results"][0]["case"]["folder"] == ""


@pytest.mark.slow
def test_a_contender_that_dies_is_one_line_and_the_rest_is_measured(
    command, capsys: pytest.CaptureFixture[str]
) -> None:
    dying = kind(OURS | {"other": "fakes:dies"})
    assert command({"dying": dying, "work": kind(OURS)}) == 1
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("error: work, 14m, 2 x 8: other: its process has ended (1)")
    assert line.endswith("MemoryError: no room")
    assert "2.000 s" in said.out


def test_without_a_gpu_nothing_is_begun(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "measure", lambda *_, **__: pytest.fail("begun"))
    said = command({"work": kind(OURS)}, "--gpu")
    assert said.startswith("error: --gpu, but jax sees no GPU; expected") and "\n" not in said


def test_without_transformers_nothing_is_begun(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "measure", lambda *_, **__: pytest.fail("begun"))
    monkeypatch.setattr(missing, "find_spec", lambda name: None)
    said = command({"work": kind(OURS, needs=("transformers",))})
    assert said.startswith("error: transformers is not installed") and "\n" not in said


def test_for_want_of_time(command, capsys: pytest.CaptureFixture[str]) -> None:
    assert not command({"work": kind(OURS)}, "--minutes", "0")
    assert capsys.readouterr().err == "not measured, for want of time: work, 14m, 2 x 8\n"


def test_the_first_case_of_each_kind_comes_first() -> None:
    small, large = Case("14m", 1, 8), Case("70m", 1, 8)
    two, one = kind(OURS, cpu=(small, large)), kind(OURS, cpu=(large,))
    assert bench.planned([two, one], None, gpu=False) == [(two, small), (one, large), (two, large)]
    found = [case for _, case in bench.planned([two, one], "14m", gpu=False)]
    assert found == [small, small]


def test_every_contender_is_there() -> None:
    """Without importing any: torch may be missing."""
    here = Path(bench.__file__).parent
    for each in KINDS.values():
        for at in [*each.contenders.values(), *filter(None, [each.files])]:
            module, _, name = at.partition(":")
            path = here.joinpath(*module.split(".")).with_suffix(".py")
            assert f"\ndef {name}(case: Case)" in path.read_text(), at
