"""Plans of several topologies side by side, and a plan's figures for a program."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from jaxneox.errors import UserError
from jaxneox.plan import side_by_side as room
from jaxneox.plan.command import parser, run
from jaxneox.plan.figures import figures
from jaxneox.plan.planned import Planned
from jaxneox.plan.side_by_side import planned_apart, side_by_side
from tests.limits import PATIENCE
from tests.plan.test_gpus import GIB, on_gpus


def test_figures_are_json_and_those_of_the_plan(planned: Planned) -> None:
    on_cpu = json.loads(json.dumps(figures(planned)))
    assert on_cpu["needed"] == planned.total and on_cpu["usable"] is None
    assert on_cpu["seconds"] is None and on_cpu["mesh"] == "dp=2,tp=2"
    gpus = figures(on_gpus(planned, 50 * GIB))
    assert gpus["needed"] == 51 * GIB and gpus["fits"] is True
    assert {one["through"] for one in gpus["sent"]} == {"NVLink"}
    assert gpus["layers"]["bytes"] == sum(row.layer_bytes for row in planned.sent)
    assert gpus["seconds"]["exposed"] == pytest.approx(gpus["seconds"]["links"])  # a CPU's program


def test_a_column_for_each_topology(planned: Planned) -> None:
    plans = [figures(planned), figures(on_gpus(planned, 70 * GIB))]
    lines = side_by_side(plans).splitlines()
    by_name = {line[:28].strip(): line[28:].split("  ") for line in lines[1:-1]}
    assert lines[0].split() == ["cpu:4", "h100:4"]
    assert "DOES NOT FIT" in by_name["memory"][-1]
    assert by_name["MFU"][-1].endswith("%") and "-" in "".join(by_name["MFU"])
    assert by_name["sent, NVLink"][-1].endswith("MiB")


def test_each_is_planned_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network is told to hosts of GPUs alone; of what goes wrong the last line counts."""
    called = []

    def child(words: list[str], **_: object) -> SimpleNamespace:
        called.append(words[3:])
        wrong = "v5e:2x2" in words
        return SimpleNamespace(
            returncode=2 * wrong, stdout='{"a": 1}', stderr="note: x\nerror: no such slice\n"
        )

    monkeypatch.setattr(room.subprocess, "run", child)
    assert planned_apart(["my.yml"], ["h100:2x8", "cpu:4"], 25.0) == [{"a": 1}] * 2
    assert called == [
        ["my.yml", "--topology", "h100:2x8", "--json", "--network", "25.0"],
        ["my.yml", "--topology", "cpu:4", "--json"],
    ]
    assert capsys.readouterr().err.splitlines()[1:] == ["note: x", "planning for cpu:4 …"]
    with pytest.raises(UserError, match=r"^v5e:2x2: no such slice$"):
        planned_apart(["my.yml"], ["cpu:4", "v5e:2x2"], None)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--compare", "cpu:2"], "two topologies or more"),
        (["--compare", "cpu:2", "cpu:4", "--html", "x.html"], "--html draws one plan"),
        (["--compare", "cpu:2", "v9:1"], "is not known"),
        (["--topology", "h100:2x8", "--network", "0"], "expected GB/s above 0"),
        (["--compare", "h100:8", "cpu:2", "--network", "0"], "expected GB/s above 0"),
        (["--compare", "cpu:2", "v5e:2x2", "--network", "25"], "none of cpu:2, v5e:2x2 has"),
    ],
)
def test_what_cannot_be_compared(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        run(parser().parse_args(["pythia-14m", *words]))


@pytest.mark.slow
def test_two_topologies() -> None:
    words = ["pythia-14m", "--set", "num-layers=1", "train_batch_size=2"]
    words += ["--compare", "cpu:1", "cpu:2"]
    done = subprocess.run(
        [sys.executable, "-m", "jaxneox.plan", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["cpu:1", "cpu:2"]
    assert done.stderr.count("planning for cpu:") == 2
