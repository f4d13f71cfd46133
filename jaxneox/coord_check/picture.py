"""The coordinates by width in one picture: a panel for the start and one for each step."""

from collections.abc import Sequence
from pathlib import Path

from jaxneox.coord_check.growth import Growth


def draw(widths: Sequence[int], found: Sequence[Growth], path: Path) -> None:
    """Draw the sizes at the start, and after each step how far the activations have moved."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    steps = len(found[0].moved)
    figure = Figure(figsize=(3.2 * (steps + 1), 3.6), dpi=120, layout="constrained")
    panels = figure.subplots(1, steps + 1, sharey=True, squeeze=False)[0]
    colours = matplotlib.colormaps["viridis"].resampled(len(found))
    for step, axes in enumerate(panels):
        for number, growth in enumerate(found):
            values = growth.first if step == 0 else growth.moved[step - 1]
            axes.plot(widths, values, "o-", color=colours(number), label=growth.name, markersize=4)
        axes.set(title="at the start" if step == 0 else f"moved by step {step}", xlabel="width")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("mean absolute size")
    panels[-1].legend(fontsize=7)
    figure.savefig(path, metadata={"Software": None})
