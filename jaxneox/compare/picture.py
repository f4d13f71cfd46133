"""The losses of several runs in one picture, against tokens.

Colours are Okabe and Ito's, with a line style for each round of them, for people with
colour-blindness.
"""

from collections.abc import Sequence
from pathlib import Path

from jaxneox.compare.figures import RunFigures, short_names

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
HALF_LIFE = 0.01
"""The share of a run after which a loss counts half in the smooth line."""


def draw(runs: Sequence[RunFigures], path: Path) -> None:
    """Draw training losses, smoothed over the raw ones, and validation losses as points."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"text.parse_math": False}):  # a name with $ is no formula
        figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        for number, (run, name) in enumerate(zip(runs, short_names(runs), strict=True)):
            colour = COLOURS[number % len(COLOURS)]
            style = STYLES[number // len(COLOURS) % len(STYLES)]
            tokens, losses = _points(run, "loss")
            axes.plot(tokens, losses, color=colour, alpha=0.2, linewidth=0.8)
            axes.plot(tokens, smooth(losses), style, color=colour, label=name, linewidth=1.4)
            axes.plot(*_points(run, "valid_loss"), "o", color=colour, markersize=4)
        axes.set(xlabel="tokens", ylabel="loss (nats per token); points: validation")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, metadata={"Software": None})


def smooth(losses: Sequence[float]) -> list[float]:
    """Average exponentially, with a half-life of a hundredth of all steps."""
    keep = 0.5 ** (1 / max(1.0, HALF_LIFE * len(losses)))
    result, total, weight = [], 0.0, 0.0
    for loss in losses:
        total, weight = keep * total + loss, keep * weight + 1
        result.append(total / weight)
    return result


def _points(run: RunFigures, name: str) -> tuple[list[float], list[float]]:
    """Return where a figure was taken, in tokens, and its values."""
    seen, xs, ys = 0.0, [], []
    for row in run.rows:
        seen += row.get("tokens") or 0
        if row.get(name) is not None:
            xs.append(seen)
            ys.append(row[name])
    return xs, ys
