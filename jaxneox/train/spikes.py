"""Which steps' losses stand far above those before them.

The rule: a loss is a spike if it exceeds the median of the last 128 finite ones by more than
`factor` (6) deviations. A deviation is 1.4826 times their median distance from their median, which
is the standard deviation where they are normal and does not grow with the spikes themselves, but
at least 0.1 % of the median, so that rounding at a plateau is no spike. While there are fewer than
64 of them nothing is called one.

Window and factor are those with which OLMo-core's SkipStepOptimizer leaves out a step, by mean and
standard deviation. Here the step is taken, and named with its samples for whoever wants to start
again before it without them, as PaLM did (Chowdhery et al. 2022, section 5.1).
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from jaxneox.train.metrics import read_metrics

WINDOW = 128
FEWEST = WINDOW // 2
NORMAL = 1.4826  # 1 / the normal distribution's 0.75 quantile
LEAST = 1e-3


class Spikes:
    """Of a run's losses in order."""

    def __init__(self, factor: float, before: Iterable[float] = ()):
        """`factor` deviations are a spike; 0: nothing is. `before` are a continued run's losses
        until here, so that it finds what it would have found without a break."""
        self.factor = factor
        self.losses: deque[float] = deque(before, maxlen=WINDOW)

    def add(self, loss: float) -> float | None:
        """By how many deviations a spike exceeds the median; None for any other loss."""
        if not math.isfinite(loss):
            return None
        found = self._deviations(loss) if len(self.losses) >= FEWEST else 0.0
        self.losses.append(loss)
        return found if self.factor and found > self.factor else None

    def _deviations(self, loss: float) -> float:
        median = statistics.median(self.losses)
        typical = statistics.median(abs(x - median) for x in self.losses)
        return (loss - median) / max(NORMAL * typical, LEAST * abs(median), 1e-30)


def losses_until(step: int, folder: Path | None) -> list[float]:
    """The finite losses that a run's metrics.jsonl has until a step; none for a new run."""
    if folder is None or not step:
        return []
    rows = read_metrics(folder / "metrics.jsonl")
    return [row["loss"] for row in rows if row["step"] <= step and row.get("loss") is not None]
