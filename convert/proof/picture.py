"""The certificate's picture: how far copies had drifted, and how far the layers are off.

Colours are Okabe and Ito's, and every line has its own marker, for people with colour-blindness.
"""

import math
import textwrap
from pathlib import Path
from typing import Any

from convert.proof.ends import is_of_values
from convert.proof.page import MERGES, undrifted

Record = dict[str, Any]

BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "0.82"
RANGE = 1e-8, 1.0  # of relative drift: the same colours in every certificate
MOST = 16  # labels of layers


def picture(record: Record, path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}):  # a name with $ is no formula
        draw(record).savefig(path, dpi=110, metadata={"Software": None})


def draw(record: Record) -> Any:
    """Draw drift above, if there is any; below it layers' errors, and whole models beside them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    proof, rows = record.get("proof"), drifts(record)
    proved = bool(proof and proof["layers"])
    panels = ["drift"] * bool(rows) + ["errors"] * (proved or not rows)
    beside = bool(proof and len(proof["ends"]) > 1)
    heights = [0.9 + 0.24 * len(rows) if panel == "drift" else 3.2 for panel in panels]
    figure = Figure(figsize=(11, sum(heights) + 1.6), layout="constrained")
    grid = figure.add_gridspec(len(panels), 2, height_ratios=heights, width_ratios=(5, 1.3))
    wide = slice(None) if not (rows or beside) else 0
    axes = {panel: figure.add_subplot(grid[i, wide]) for i, panel in enumerate(panels)}
    if rows:
        draw_drift(figure, axes["drift"], figure.add_subplot(grid[0, 1]), rows, layers(record))
    if not proved:
        why = "the two could not be followed" if proof else "not proved (--no-verify)"
        figure.suptitle(f"no errors were measured: {why}", fontsize=10)
    if proved:
        low = draw_errors(axes["errors"], record)
        if beside:
            ends = figure.add_subplot(grid[-1, 1], sharey=axes["errors"])
            draw_ends(ends, record, low)
    elif "errors" in axes:
        axes["errors"].text(0.5, 0.5, undrifted(record) or "nothing to show", ha="center")
        axes["errors"].set_axis_off()
    for panel in panels:
        if proved or rows:
            name_columns(axes[panel], record, named=panel == panels[-1])
    return figure


def layers(record: Record) -> int:
    if (proof := record.get("proof")) and proof["layers"]:
        return len(proof["layers"]) - 2
    return 1 + max((t["layer"] for t in record["tensors"] if t["layer"] is not None), default=-1)


def drifts(record: Record) -> dict[str, dict[int, float]]:
    """Collect drift by tensor and column, for tensors of which any copies differ.

    Drift is the largest difference between two ranks, relative to the tensor's rms.
    """
    rows: dict[str, dict[int, float]] = {}
    for tensor in record["tensors"]:
        if drift := tensor["drift"]:
            first = 0 if tensor["module"] == 0 else layers(record) + 1
            column = first if tensor["layer"] is None else tensor["layer"] + 1
            size = drift["of"] or drift["between"] or 1.0
            rows.setdefault(tensor["name"], {})[column] = drift["between"] / size
    return {name: row for name, row in rows.items() if any(row.values())}


def draw_drift(
    figure: Any, axes: Any, beside: Any, rows: dict[str, dict[int, float]], count: int
) -> None:
    """Draw drift as a heat map, with a row for each tensor and a column for each layer."""
    from matplotlib.colors import ListedColormap, LogNorm

    grid = [[row.get(column, math.nan) for column in range(count + 2)] for row in rows.values()]
    same = [[1.0 if value == 0 else math.nan for value in row] for row in grid]
    shown = [[value or math.nan for value in row] for row in grid]
    axes.imshow(same, aspect="auto", cmap=ListedColormap([GREY]))
    image = axes.imshow(shown, aspect="auto", cmap="viridis", norm=LogNorm(*RANGE))
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    grey = "; grey: no difference" if any(value == 0 for row in grid for value in row) else ""
    axes.set_title(f"drift of the ranks' copies{grey}", fontsize=10, loc="left")
    beside.set_axis_off()
    bar = figure.colorbar(image, cax=beside.inset_axes((0.0, 0.0, 0.1, 1.0)), extend="both")
    bar.set_ticks([10.0**n for n in range(-8, 1, 2)])
    bar.ax.tick_params(labelsize=8)
    bar.set_label("largest difference\nbetween two ranks,\nof the tensor's rms", fontsize=8)


def draw_errors(axes: Any, record: Record) -> float:
    """Draw the layers' errors, and return the height at which an exact 0 is drawn."""
    proof = record["proof"]
    low = below(proof)
    for key, label, colour, marker in (
        ("random", "of what a layer adds to random states", BLUE, "o"),
        ("stream", "of the text's stream after it", ORANGE, "s"),
    ):
        errors = [layer[key] for layer in proof["layers"]]
        axes.plot([e or math.nan for e in errors], color=colour, marker=marker, ms=5, label=label)
        zeros = [i for i, error in enumerate(errors) if error == 0]
        axes.plot(zeros, [low] * len(zeros), marker, mec=colour, mfc="none", ms=8, clip_on=False)
    label = f"limit for a layer, {proof['tolerance']:.1e}"
    axes.axhline(proof["tolerance"], color="black", ls="--", lw=1, label=label)
    axes.set_yscale("log")
    finite = [e for e in sizes(proof) if math.isfinite(e)]
    decades = range(round(math.log10(low)) + 1, math.ceil(math.log10(max(finite))) + 1)
    decades = decades[:: math.ceil(len(decades) / 9)]
    ticks = [f"$10^{{{n}}}$" for n in decades]
    axes.set_yticks([low, *(10.0**n for n in decades)], ["exactly 0", *ticks], fontsize=8)
    axes.minorticks_off()
    axes.set_ylim(low / 2, 10.0 ** (math.ceil(math.log10(max(finite))) + 0.5))
    axes.grid(axis="y", lw=0.4)
    note = undrifted(record)
    title = "error of the converted model, relative" + (f"\n{note}" if note else "")
    axes.set_title(title, fontsize=10, loc="left", pad=24)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, frameon=False)
    return low


def draw_ends(axes: Any, record: Record, low: float) -> None:
    """Draw the errors of the whole models: ours, and those of past merges."""
    ends = record["proof"]["ends"]
    for i, end in enumerate(ends):
        colour, marker = (RED, "^v<"[i % 3]) if end["title"] in MERGES else ("black", "*")
        colour, marker = (BLUE, "D") if i == 0 else (colour, marker)
        at, fill = (end["relative"], colour) if end["relative"] else (low, "none")
        axes.plot([i], [at], marker, mec=colour, mfc=fill, ms=8)
    names = [textwrap.fill(end["title"].removeprefix("the "), 18) for end in ends]
    axes.set_xticks(range(len(ends)), names, rotation=90, fontsize=8)
    axes.set_xlim(-0.6, len(ends) - 0.4)
    axes.tick_params(axis="y", labelleft=False)
    axes.grid(axis="y", lw=0.4)
    what = "values" if is_of_values(ends[0]) else "logits"
    axes.set_title(f"{what} of whole models,\nrelative L2", fontsize=10, loc="left")


def below(proof: Record) -> float:
    """Return a tenth of the smallest positive error, because a logarithm has no 0."""
    smallest = min(0.01 * proof["tolerance"], *(e for e in sizes(proof) if e > 0))
    return 10.0 ** (math.floor(math.log10(smallest)) - 1)


def sizes(proof: Record) -> list[float]:
    errors = [proof["tolerance"], *(end["relative"] for end in proof["ends"])]
    return errors + [layer[key] for layer in proof["layers"] for key in ("random", "stream")]


def name_columns(axes: Any, record: Record, named: bool) -> None:
    """Name the columns: the embedding, the layers, and what follows; only some layers by number."""
    count, proof = layers(record), record.get("proof")
    followed = proof["layers"] if proof else []
    last = followed[-1]["name"].removeprefix("the ") if followed else "unembedding"
    step = math.ceil(max(count, 1) / MOST)
    some = [i for i in range(0, count, step) if count - i >= step]
    axes.set_xlim(-0.5, count + 1.5)
    columns = [0, *(i + 1 for i in some), count + 1]
    names = ["embedding", *map(str, some), f"final norm,\n{last}"]
    axes.set_xticks(columns, names if named else [""] * len(names), fontsize=8)
    for label in (axes.get_xticklabels()[0], axes.get_xticklabels()[-1]):
        label.set_rotation(90)
    if named:
        axes.set_xlabel("layer", fontsize=8)
