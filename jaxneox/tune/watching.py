"""Looks at the held-out loss while a run trains: keeps the best checkpoint, and may stop."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxneox import checkpoint
from jaxneox.run_folder import PREFIX
from jaxneox.train.reporting.callbacks import Progress
from jaxneox.train.reporting.metrics import read_metrics

LOSS, START = "valid_loss", "start_valid_loss"


class Watch:
    """Called after every step; of a run's checkpoints the best and the newest stay.

    Attributes:
        best: the step with the lowest loss on what is held out; None before there is any.
        losses: the loss by step, wherever there was an evaluation.
        start: the loss before the first step; None if that is not known.
    """

    def __init__(self, run: Path, patience: int | None):
        """Begin where a run stands.

        Args:
            run: its folder.
            patience: after how many evaluations without a better one it stops; None for never.
        """
        self.run, self.patience = run, patience
        self.losses: dict[int, float] = {}
        self.start: float | None = None
        for figures in read_metrics(run / "metrics.jsonl"):
            self._note(figures["step"], figures)

    @property
    def best(self) -> int | None:
        return min(self.losses, key=lambda step: self.losses[step], default=None)

    @property
    def out_of_patience(self) -> bool:
        """Whether so many evaluations were not better that training should stop."""
        later = [step for step in self.losses if self.best is not None and step > self.best]
        return self.patience is not None and len(later) >= self.patience

    def __call__(self, progress: Progress) -> None:
        if not self._note(progress.step, progress.figures):
            return
        self.remove_others()
        if self.out_of_patience:
            progress.stop()

    def _note(self, step: int, figures: Mapping[str, Any]) -> bool:
        self.start = figures.get(START, self.start)
        loss = figures.get(LOSS)
        if loss is None or not math.isfinite(loss):
            return False
        self.losses[step] = loss
        return True

    def remove_others(self) -> None:
        """Remove checkpoints that are neither the best nor the newest that is whole."""
        steps = checkpoint.steps(self.run)
        for step in steps[:-1]:
            if step != self.best and step in self.losses:
                shutil.rmtree(self.run / f"{PREFIX}_{step}")
