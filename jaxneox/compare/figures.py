"""Figures of runs, and the settings in which they differ."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxneox.config import dotted, load_yaml
from jaxneox.errors import UserError
from jaxneox.run_folder import on_disk
from jaxneox.train.reporting.metrics import Figures, read_metrics

LAST = 0.1
"""The share of a run's steps over which its last loss is the mean."""

PLACES = {"save", "load", "iteration", "log_dir", "tensorboard_dir", "wandb_group", "wandb_project"}
"""Settings that say where a run is, and not what it is."""


@dataclass(frozen=True)
class RunFigures:
    """A run, as far as its metrics.jsonl tells.

    Attributes:
        name: its folder, as it was given.
        rows: the figures of each step.
        keys: its configuration's, in dotted names.
    """

    name: str
    rows: Sequence[Figures]
    keys: Mapping[str, Any]

    @property
    def steps(self) -> int:
        return int(self.rows[-1]["step"])

    @property
    def tokens(self) -> int:
        return int(sum(row.get("tokens") or 0 for row in self.rows))

    @property
    def loss(self) -> float | None:
        """The mean training loss of the last tenth of the steps."""
        last = self.rows[-max(1, round(LAST * len(self.rows))) :]
        finite = [row["loss"] for row in last if row.get("loss") is not None]
        return statistics.fmean(finite) if finite else None

    @property
    def valid(self) -> float | None:
        """The least validation loss."""
        losses = [row["valid_loss"] for row in self.rows if row.get("valid_loss") is not None]
        return min(losses, default=None)

    @property
    def speed(self) -> float | None:
        """The median of its steps' tokens per second."""
        each = [
            row["tokens"] / row["seconds"]
            for row in self.rows[1:]  # the first compiles
            if row.get("tokens") and row.get("seconds")
        ]
        return statistics.median(each) if each else None


def read_run(name: str) -> RunFigures:
    """Read a run's figures and configuration.

    Raises:
        UserError: no run is there, or it has taken no step.
    """
    folder = on_disk(name)
    metrics, config = folder / "metrics.jsonl", folder / "config.yml"
    if not metrics.is_file():
        raise UserError(f"{name}: has no metrics.jsonl; expected the folder of a run")
    rows = read_metrics(metrics)
    if not rows:
        raise UserError(f"{metrics}: has no step yet")
    keys = load_yaml([config]) if config.is_file() else {}
    return RunFigures(name, rows, dotted.flat(keys))


def differences(runs: Sequence[RunFigures]) -> dict[str, list[Any]]:
    """Return the settings that are not the same in all runs, each with every run's value."""
    names = sorted(set().union(*(run.keys for run in runs)) - PLACES)
    values = {name: [run.keys.get(name) for run in runs] for name in names}
    return {name: each for name, each in values.items() if any(v != each[0] for v in each)}


def short_names(runs: Sequence[RunFigures]) -> list[str]:
    """Return the folders' last names, or as they were given where these are not different."""
    last = [Path(run.name).resolve().name for run in runs]
    return last if len(set(last)) == len(last) else [run.name for run in runs]
