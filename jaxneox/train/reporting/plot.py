"""The loss curve as a picture."""

from pathlib import Path

from jaxneox.train.reporting.metrics import read_metrics


def plot_loss(metrics: Path, picture: Path) -> None:
    """Draw the training loss, and the validation loss if there is one, over the steps, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_metrics(metrics)
    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=120, layout="constrained")
    for name, style in (("loss", "-"), ("valid_loss", "o-")):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=name.replace("_", " "), linewidth=1)
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    figure.savefig(picture)
    pyplot.close(figure)
