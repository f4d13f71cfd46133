"""A plan as one HTML page with its pictures in it: memory, sharding, a layer's timeline."""

from collections.abc import Iterator
from pathlib import Path

from jaxneox.console.text import as_html
from jaxneox.data.atomic import atomic_file
from jaxneox.parallel.mesh import shown
from jaxneox.plan.planned import Planned
from jaxneox.plan.report import GIB, MEANS, report
from jaxneox.plan.timeline import Interval, timelines
from jaxneox.train.step.state import param_specs

WIDTH = 900
COLOURS = (
    "#2f6f9f",
    "#5aa3cf",
    "#9aa5b1",
    "#d98a3d",
    "#7fb069",
    "#b55d60",
    "#8d6cab",
)  # of memory's parts
LANES = {"arithmetic": COLOURS[0], "memory": COLOURS[2]}
AXES = {  # dark: under white
    "pp": "#7a57ad",
    "dp": "#b0484c",
    "ep": "#2f7f86",
    "cp": "#4f8a3d",
    "tp": "#b8651b",
}
SEVERAL = "#6b5b4b"  # mesh axes together
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em;
  color: #1d2a36; background: #fff }
pre { background: #f4f6f8; padding: 1em; overflow-x: auto; font-size: 13px }
svg { width: 100%; height: auto } table { border-collapse: collapse; font-size: 13px }
td, th { padding: 2px 8px; text-align: left } td.n { text-align: right }
.key { display: inline-block; width: 1em; height: 1em; margin: 0 .3em 0 1em; vertical-align: -2px }
"""


def write_page(planned: Planned, path: Path) -> None:
    parts = [section("Memory of a device", bars(planned)), section("Sharding", sharding(planned))]
    if planned.topology.chip is not None:
        parts.append(section("A layer's timeline", "".join(drawn(planned))))
    title = as_html(f"{planned.plan.parameters:,} parameters on {planned.topology.name}")
    text = as_html(report(planned))
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style><h1>{title}</h1>{''.join(parts)}"
        f"<h2>All figures</h2><pre>{text}</pre></html>\n"
    )
    with atomic_file(path) as file:
        file.write(page.encode())


def section(title: str, body: str) -> str:
    return f"<h2>{as_html(title)}</h2>{body}"


def key(entries: dict[str, str]) -> str:
    spans = (
        f'<span class="key" style="background:{c}"></span>{as_html(n)}' for n, c in entries.items()
    )
    return f"<p>{''.join(spans)}</p>"


def bars(planned: Planned) -> str:
    """Draw one bar as long as the memory that can be used, filled by kind."""
    known, parts = planned.topology.chip is not None, planned.parts
    usable = planned.topology.usable if known else 0
    whole = max(usable, planned.needed)
    colours = dict(zip(parts, COLOURS, strict=False))
    x, drawn = 0.0, []
    for name, size in parts.items():
        width = WIDTH * size / whole
        drawn.append(rect(x, 8, width, 44, colours[name], f"{name}: {size / GIB:,.3f} GiB"))
        x += width
    limit = ""
    if known:
        at = WIDTH * usable / whole
        limit = f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="60" stroke="#b00" />'
    frame = f'<rect x="0" y="8" width="{WIDTH}" height="44" fill="none" stroke="#9aa5b1"/>'
    rows = "".join(
        f'<tr><td>{n}</td><td class="n">{s / GIB:,.3f} GiB</td><td>{MEANS[n]}</td></tr>'
        for n, s in parts.items()
    )
    return svg(60, [frame, *drawn, limit]) + key(colours) + f"<table>{rows}</table>"


def sharding(planned: Planned) -> str:
    """Draw each parameter as a row of its axes, coloured by the mesh axes that split them."""
    plan = planned.plan
    at = param_specs(plan.model, plan.rules).params
    used = sorted({label(e) for spec in at.values() for e in spec if e is not None})
    colours = {"whole": "#e8ecf0"} | {name: AXES.get(name, SEVERAL) for name in used}
    rows = []
    for name, shape in plan.model.shapes.items():
        entries = [*at[name], *[None] * (len(shape) - len(at[name]))]
        cells = "".join(
            f"{cell(colours, e)}{axis} {size:,}</td>"
            for axis, size, e in zip(plan.model.axes[name], shape, entries, strict=True)
        )
        rows.append(f"<tr><td>{as_html(name)}</td>{cells}</tr>")
    return key(colours) + f"<table>{''.join(rows)}</table>"


def cell(colours: dict[str, str], entry: str | tuple[str, ...] | None) -> str:
    if entry is None:
        return f'<td style="background:{colours["whole"]}">'
    return f'<td style="background:{colours[label(entry)]};color:#fff">'


def label(entry: str | tuple[str, ...]) -> str:
    return " x ".join(shown((entry,) if isinstance(entry, str) else entry))


def drawn(planned: Planned) -> Iterator[str]:
    """Draw the loops over layers, the shortest first, which is the forward pass."""
    passes = [intervals for intervals in timelines(planned) if seconds(intervals) > 0]
    passes.sort(key=seconds)
    names = ("forward", "backward") if len(passes) == 2 else ("one pass",) * len(passes)
    for name, intervals in zip(names, passes, strict=True):
        total = seconds(intervals)
        used = [interval.lane for interval in intervals]
        lanes = list(dict.fromkeys(["arithmetic", "memory", *used]))
        colours = {lane: (LANES | AXES).get(lane, SEVERAL) for lane in lanes}
        scale, height = WIDTH / total, 26
        shapes = [
            rect(
                scale * interval.start,
                4 + height * lanes.index(interval.lane),
                scale * interval.seconds,
                height - 4,
                colours[interval.lane],
                caption(interval),
            )
            for interval in intervals
        ]
        yield f"<p>{name}: {1e3 * total:,.2f} ms, if nothing overlaps</p>"
        yield svg(8 + height * len(lanes), shapes) + key(colours)


def seconds(intervals: list[Interval]) -> float:
    return sum(interval.seconds for interval in intervals)


def caption(interval: Interval) -> str:
    return f"{interval.name}: {1e6 * interval.seconds:,.1f} µs"


def rect(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    return (
        f'<rect x="{x:.2f}" y="{y}" width="{max(width, 0.3):.2f}" height="{height}" '
        f'fill="{colour}"><title>{as_html(title)}</title></rect>'
    )


def svg(height: float, shapes: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" xmlns="http://www.w3.org/2000/svg">'
        f"{''.join(shapes)}</svg>"
    )
