"""The certificate's picture: how far copies had drifted, and how far the layers are off."""

import math
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def picture(record: Record, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    draw_drift(figure, upper, record)
    draw_errors(lower, record)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw_drift(figure: Any, axes: Any, record: Record) -> None:
    """A heat map: one row a tensor, one column a layer, the decimal logarithm of the drift."""
    rows: dict[str, dict[int, float]] = {}
    for tensor in record["tensors"]:
        drift = tensor.get("drift")
        if drift and drift["max"] > 0 and tensor["module"] is not None:
            rows.setdefault(tensor["name"], {})[tensor["module"]] = math.log10(drift["max"])
    axes.set_title("drift of the ranks' copies, largest difference from their mean", fontsize=10)
    if not rows:
        axes.text(0.5, 0.5, "no copy of any tensor differs between ranks", ha="center")
        axes.set_axis_off()
        return
    columns = sorted({module for row in rows.values() for module in row})
    grid = [[row.get(module, math.nan) for module in columns] for row in rows.values()]
    image = axes.imshow(grid, aspect="auto", cmap="viridis")
    axes.set_yticks(range(len(rows)), list(rows), fontsize=7)
    some = range(0, len(columns), max(1, len(columns) // 16))
    axes.set_xticks(some, [str(columns[i]) for i in some], fontsize=7)
    axes.set_xlabel("module of the Sequential (block i is module i + 2)", fontsize=8)
    figure.colorbar(image, ax=axes, label="log10")


def draw_errors(axes: Any, record: Record) -> None:
    proof = record.get("proof")
    axes.set_title("error of the converted model, relative", fontsize=10)
    if not proof or not proof["layers"]:
        axes.text(0.5, 0.5, "not proved (--no-verify)", ha="center")
        axes.set_axis_off()
        return
    floor = 1e-17  # a logarithm has no zero
    names = [layer["name"].removeprefix("layer ") for layer in proof["layers"]]
    for key, label in (
        ("random", "of what a layer adds to random states"),
        ("stream", "of the text's stream after it"),
    ):
        axes.plot([max(layer[key], floor) for layer in proof["layers"]], ".-", label=label)
    axes.axhline(proof["tolerance"], color="tab:red", lw=0.8, label="limit for a layer")
    axes.set_yscale("log")
    some = range(0, len(names), max(1, len(names) // 16))
    axes.set_xticks(some, [names[i] for i in some], fontsize=7)
    axes.legend(fontsize=8)
