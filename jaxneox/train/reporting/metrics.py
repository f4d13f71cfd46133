"""Where a run's figures go: one object a step in `metrics.jsonl`, TensorBoard and W&B."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from jaxneox.config.schema import LogConfig
from jaxneox.errors import UserError
from jaxneox.hosts import messages

Figures = dict[str, Any]

LONGEST_LINE = 1 << 20
"""Bytes of a step's figures, at most; they are a few hundred."""


class Sink(Protocol):
    """Takes the figures of every step."""

    def write(self, step: int, figures: Figures) -> None: ...
    def close(self) -> None: ...


class MetricsFile:
    """`metrics.jsonl`: every step once, in order, in full precision; null for what is not finite.

    If it is opened at step N it drops what an interrupted run had written beyond N.
    """

    def __init__(self, path: Path, step: int):
        kept = [line for line, figures in _read(path) if figures["step"] <= step]
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(b"".join(kept))
        temporary.replace(path)
        self.file = path.open("a")

    def write(self, step: int, figures: Figures) -> None:
        finite = {name: _finite(value) for name, value in figures.items()}
        try:
            self.file.write(json.dumps({"step": step} | finite) + "\n")
            self.file.flush()
        except OSError as error:
            raise UserError(
                f"{self.file.name}: cannot be written ({error.strerror}); make room, then run the "
                "same command again: it continues from the last checkpoint"
            ) from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written has been reported
            self.file.close()


class TensorBoard:
    """Figures for TensorBoard.

    If it is opened at step N it hides what an interrupted run had written beyond N.
    """

    def __init__(self, folder: str, step: int):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise UserError(
                "tensorboard-dir is set and tensorboardX is not installed: pip install tensorboardX"
            ) from error
        try:
            self.writer = SummaryWriter(folder, purge_step=step + 1 if step else None)
        except OSError as error:
            raise UserError(
                f"tensorboard-dir {folder}: cannot be written ({error.strerror})"
            ) from error

    def write(self, step: int, figures: Figures) -> None:
        for name, value in figures.items():
            if not isinstance(value, list):
                self.writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """Figures for Weights & Biases."""

    def __init__(self, options: dict[str, Any], keys: Figures):
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "use-wandb is set and wandb is not installed: pip install wandb, "
                "or --set use-wandb=false"
            ) from error
        if options.get("host"):
            os.environ.setdefault("WANDB_BASE_URL", options["host"])
        self.run = wandb.init(
            project=options.get("project"),
            group=options.get("group"),
            entity=options.get("team"),
            name=options.get("name"),
            config=keys,
        )

    def write(self, step: int, figures: Figures) -> None:
        self.run.log(figures, step=step)

    def close(self) -> None:
        self.run.finish()


def open_sinks(log: LogConfig, keys: Figures, run: Path | None, step: int) -> list[Sink]:
    """Open the configured sinks; of several processes only the first has any."""
    sinks: list[Sink] = []
    if not messages.is_first():
        return sinks
    if run is not None:
        sinks.append(MetricsFile(run / "metrics.jsonl", step))
    if log.tensorboard_dir:
        sinks.append(TensorBoard(log.tensorboard_dir, step))
    if log.wandb is not None:
        sinks.append(Wandb(log.wandb, keys))
    return sinks


def read_metrics(path: Path) -> list[Figures]:
    """Read the figures of every step that was written whole.

    Raises:
        UserError: a line is something else; it names the line.
    """
    return [figures for _, figures in _read(path)]


def _read(path: Path) -> Iterator[tuple[bytes, Figures]]:
    """Yield each whole line with its figures: a killed run may have left half of one at the end."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            yield line, _figures(path, number, line)


def _figures(path: Path, number: int, line: bytes) -> Figures:
    try:
        figures = json.loads(line) if len(line) <= LONGEST_LINE else None
    except (ValueError, RecursionError):  # the first also of bytes that are not UTF-8
        figures = None
    if not isinstance(figures, dict) or not isinstance(figures.get("step"), int):
        figures = {}
    if not figures or not all(map(_is_figure, figures.values())):
        raise UserError(
            f"{path}:{number}: {line[:40].strip()!r} is not the figures of a step; take the line "
            "out, or move the file away"
        )
    return figures


def _is_figure(value: Any) -> bool:
    """Tell whether a value is a finite number, the null for another, or a list of such values."""
    if isinstance(value, list):
        return all(map(_is_figure, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) < 2**63)


def _finite(value: Any) -> Any:
    """Put null in place of what is not finite, in lists too."""
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
