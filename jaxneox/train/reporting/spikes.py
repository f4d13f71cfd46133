"""Finds the steps whose losses stand far above those before them.

The rule: a loss is a spike if it exceeds the median of the last 128 finite ones by more than
`factor` (6) deviations. A deviation is 1.4826 times their median distance from their median, which
is the standard deviation if they are normal and does not grow with the spikes themselves, but at
least 0.1 % of the median, so that rounding at a plateau is no spike. While there are fewer than 64
of them nothing is called one.

Window and factor are those with which OLMo-core's SkipStepOptimizer leaves out a step, by mean and
standard deviation. Here the step is taken, and named with its samples for whoever wants to start
again before it without them, as PaLM did (Chowdhery et al. 2022, section 5.1).
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from jaxneox.train.reporting.metrics import read_metrics

WINDOW = 128
MIN_LOSSES = WINDOW // 2
NORMAL = 1.4826  # 1 / the normal distribution's 0.75 quantile
LEAST_SHARE = 1e-3


class Spikes:
    """Looks for spikes in a run's losses, which it is given in order."""

    def __init__(self, factor: float, before: Iterable[float] = ()):
        """Begin with the losses that a continued run already has.

        Args:
            factor: how many deviations make a spike; 0 finds none.
            before: the losses until here, so that a continued run finds the same spikes.
        """
        self.factor = factor
        self.losses: deque[float] = deque(before, maxlen=WINDOW)

    def add(self, loss: float) -> float | None:
        """Return by how many deviations a spike exceeds the median; None for any other loss."""
        if not math.isfinite(loss):
            return None
        deviations = self._deviations(loss) if len(self.losses) >= MIN_LOSSES else 0.0
        self.losses.append(loss)
        return deviations if self.factor and deviations > self.factor else None

    def _deviations(self, loss: float) -> float:
        median = statistics.median(self.losses)
        typical = statistics.median(abs(x - median) for x in self.losses)
        return (loss - median) / max(NORMAL * typical, LEAST_SHARE * abs(median), 1e-30)


def losses_until(step: int, folder: Path | None) -> list[float]:
    """Read the finite losses until a step from a run's metrics.jsonl; none for a new run."""
    if folder is None or not step:
        return []
    rows = read_metrics(folder / "metrics.jsonl")
    return [row["loss"] for row in rows if row["step"] <= step and row.get("loss") is not None]
