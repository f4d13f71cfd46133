"""Figures on their way to files, loggers and the terminal."""

import io
import json
import struct
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from jaxneox.config.schema import LogConfig
from jaxneox.errors import UserError
from jaxneox.train.reporting.metrics import MetricsFile, TensorBoard, open_sinks, read_metrics
from jaxneox.train.reporting.plot import plot_loss
from jaxneox.train.reporting.progress import Bar, Rate

FIGURES = {
    "loss": 2.5,
    "grad_norm": 1.0,
    "lr": 1e-3,
    "tokens": 64,
    "seconds": 0.5,
    "data_wait": 0.0,
}


def written(path: Path, step: int, steps: range) -> list[int]:
    sink = MetricsFile(path, step)
    for i in steps:
        sink.write(i, {"loss": i / 3})
    sink.close()
    return [row["step"] for row in read_metrics(path)]


def test_numbers_are_exact_and_what_is_not_finite_is_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = MetricsFile(path, 0)
    sink.write(1, {"loss": 0.1 + 0.2, "grad_norm": float("nan"), "lr": float("inf"), "skipped": 1,
                   "loss_scale": 2.0**127})  # fmt: skip
    sink.close()
    row = {"step": 1, "loss": 0.30000000000000004, "grad_norm": None, "lr": None, "skipped": 1}
    row |= {"loss_scale": 2.0**127}
    assert path.read_text() == json.dumps(row) + "\n"
    assert read_metrics(path) == [row]


def test_what_lies_beyond_the_start_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert written(path, 0, range(1, 8)) == [1, 2, 3, 4, 5, 6, 7]
    with path.open("a") as file:
        file.write('{"step": 8, "lo')  # as a killed run leaves it
    assert len(read_metrics(path)) == 7
    assert written(path, 5, range(6, 9)) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert written(path, 0, range(1, 2)) == [1]


@pytest.mark.parametrize(
    "line",
    [
        *(b"{}", b"nonsense", b"[1]", b"3", b"\xff", b"", b"null", b"\x00"),
        *(
            b'{"step": 1e400}',
            b'{"step": "1"}',
            b'{"step": null}',
            b'{"step": ' + b"9" * 5000 + b"}",
        ),
        *(
            b"[" * 100_000,
            b'{"step": 2, "x": ' + b"[" * 10**5,
            b'{"step": 2, "x": "' + b"x" * 2**21,
        ),
    ],
    ids=lambda line: repr(line[:20]),
)
def test_a_foreign_line_is_an_error(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    content = b'{"step": 1, "loss": 2.0}\n' + line + b"\n"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"jsonl:2: .* is not the figures of a step; take the line"):
        MetricsFile(path, 3)
    assert path.read_bytes() == content


@pytest.mark.parametrize("torn", [b"\xe2\x82", b'{"step": 2, "loss": 1', b"\xff", b"[" * 10**5])
def test_a_torn_last_line_is_dropped(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n' + torn)
    assert written(path, 1, range(2, 3)) == [1, 2]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    sink = MetricsFile(tmp_path / "metrics.jsonl", 0)
    sink.close()
    with Path("/dev/full").open("a", buffering=1) as sink.file:
        with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
            sink.write(1, FIGURES)
        sink.close()


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """The records of all event files: length, checksum, event, checksum."""
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            if event.session_log.status:
                found.append(("restart", event.step, 0.0))
            data = data[16 + size :]
    return found


def test_tensorboard(tmp_path: Path) -> None:
    for start, steps in ((0, (1, 2, 3)), (2, (3,))):
        sink = TensorBoard(str(tmp_path / f"board{start}"), start)
        for step in steps:
            sink.write(step, {"loss": step / 4})
        sink.close()
    expected = [("train/loss", 1, 0.25), ("train/loss", 2, 0.5), ("train/loss", 3, 0.75)]
    assert scalars(tmp_path / "board0") == expected
    assert scalars(tmp_path / "board2") == [("restart", 3, 0.0), expected[2]]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"tensorboard-dir .*file: cannot be written"):
        TensorBoard(str(tmp_path / "file"), 0)


class FakeWandb(types.ModuleType):
    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: list[Any] = []

    def init(self, **options: Any) -> "FakeWandb":
        self.calls.append(options)
        return self

    def log(self, figures: dict[str, Any], step: int) -> None:
        self.calls.append((step, figures))

    def finish(self) -> None:
        self.calls.append("finish")


def test_wandb_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    log = LogConfig(wandb={"project": "p", "group": "g", "team": "t", "name": None, "host": None})
    (sink,) = open_sinks(log, {"seed": 1}, None, 0)
    sink.write(3, FIGURES)
    sink.close()
    init = {"project": "p", "group": "g", "entity": "t", "name": None, "config": {"seed": 1}}
    assert fake.calls == [init, (3, FIGURES), "finish"]


def test_wandb_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="use-wandb is set and wandb is not installed: pip install"):
        open_sinks(LogConfig(wandb={}), {}, None, 0)


@pytest.mark.parametrize("rows", [[], [{"loss": None}], [{"loss": 2.0}, {"loss": 1.0}]])
def test_the_picture_needs_no_points(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": i} | row) + "\n" for i, row in enumerate(rows)))
    plot_loss(path, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_lines_show_means_without_the_compilation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the output is a file there are lines alone, the same as in log-dir/train.log."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    log = LogConfig(interval=2, log_dir=str(tmp_path / "logs"))
    bar = Bar(0, 5, log, Rate(flops_per_token=2.0, peak=640.0))
    for step, seconds in enumerate((60.0, 1.0, 0.25, 0.75, 0.5), 1):
        bar.show(step, FIGURES | {"seconds": seconds})
    bar.say("[not] markup")
    bar.close()
    figures = "loss 2.5000  norm 1.000  lr 1.00e-03"
    assert out.getvalue().splitlines() == [
        f"step      1  {figures}  1 min 0 s, compiling included",
        f"step      2  {figures}  64 tokens/s  MFU 20%  1 s",
        f"step      4  {figures}  128 tokens/s  MFU 40%  500 ms",
        f"step      5  {figures}  128 tokens/s  MFU 40%  500 ms",
        "[not] markup",
    ]
    assert (tmp_path / "logs/train.log").read_text() == out.getvalue()


def test_profiled_steps_tell_nothing_of_the_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    bar = Bar(0, 5, LogConfig(interval=2), Rate(flops_per_token=2.0, peak=640.0))
    for step, seconds in enumerate((60.0, 0.5, 50.0, 50.0, 0.5), 1):
        bar.show(step, FIGURES | {"seconds": seconds}, timed=step not in (3, 4))
    bar.close()
    times = [line.partition("1.00e-03")[2] for line in out.getvalue().splitlines()]
    assert times[1:] == ["  128 tokens/s  MFU 40%  500 ms", "", "  128 tokens/s  MFU 40%  500 ms"]


def test_a_peak_that_is_too_low_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    bar = Bar(0, 3, LogConfig(interval=1), Rate(flops_per_token=2e12, peak=1.2e14))
    for step in (1, 2, 3):
        bar.show(step, FIGURES | {"seconds": 1e-4})
    bar.close()
    assert "MFU" not in out.getvalue().replace("MFU is not shown", "")
    assert out.getvalue().count("more than the 120 TFLOP/s that were taken for their peak") == 1


def test_small_numbers_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    bar = Bar(1, 3, LogConfig(), Rate(flops_per_token=2.0, peak=1e9))
    small = {"loss": 2e-5, "grad_norm": 1e-4, "seconds": 3e-4}
    for step in (2, 3):
        bar.show(step, FIGURES | small)
    bar.close()
    assert out.getvalue().splitlines()[1] == (
        "step      3  loss 2.00e-05  norm 1.00e-04  lr 1.00e-03  213,333 tokens/s  MFU 0.043%  "
        "0.3 ms"
    )
