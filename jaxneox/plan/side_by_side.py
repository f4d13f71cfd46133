"""Plans of one configuration on several topologies, side by side.

A process has one compiler, so that each topology is planned for in a process of its own.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jaxneox.console.columns import columns
from jaxneox.console.say import tell
from jaxneox.errors import UserError
from jaxneox.plan.topology import parse_topology

GIB, MIB = 2**30, 2**20
Figures = dict[str, Any]


def planned_apart(
    arguments: Sequence[str], topologies: Sequence[str], network: float | None
) -> list[Figures]:
    """Plan for each topology, one after the other; what several of them note is printed once.

    Args:
        arguments: of `jaxneox plan`, without the topology.
        topologies: their names.
        network: GB/s between hosts of GPUs, for those topologies that have them; None: the table's.

    Returns:
        The figures of each, see `figures`.

    Raises:
        UserError: one of them cannot be planned for; its own line says why.
    """
    found = []
    noted: set[str] = set()
    for name in topologies:
        words = [sys.executable, "-m", "jaxneox.plan", *arguments, "--topology", name, "--json"]
        if network is not None and parse_topology(name).is_gpu:
            words += ["--network", str(network)]
        tell(f"planning for {name} …")
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"its process ended ({done.returncode})"]
            raise UserError(f"{name}: {lines[-1].removeprefix('error: ')}")
        notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
        for note in (line for line in notes if line not in noted):
            tell(note)
        noted.update(notes)
        found.append(json.loads(done.stdout))
    return found


def side_by_side(plans: Sequence[Figures]) -> str:
    """Tabulate plans, a column for each."""
    rows = [["", *(str(plan["topology"]) for plan in plans)]]
    for name, cell in CELLS.items():
        cells = [cell(plan) for plan in plans]
        if any(cells):
            rows.append([name, *(each or "-" for each in cells)])
    levels = dict.fromkeys(row["through"] for plan in plans for row in plan["sent"])
    for level in levels:
        sizes = [sum(r["bytes"] for r in p["sent"] if r["through"] == level) for p in plans]
        name = f"sent, {level}" if level else "sent"
        rows.append([name, *(f"{size / MIB:,.0f} MiB" if size else "-" for size in sizes)])
    return "\n".join([*columns(rows, left=1), NOTE])


NOTE = (
    "of a device and a step; times at the makers' peak rates, a step from all at once to the "
    "program's order"
)


def _memory(plan: Figures) -> str:
    if plan["usable"] is None:
        return f"{plan['needed'] / GIB:,.2f} GiB"
    verdict = "fits" if plan["fits"] else "DOES NOT FIT"
    return f"{plan['needed'] / GIB:,.2f} of {plan['usable'] / GIB:,.1f} GiB: {verdict}"


def _milliseconds(name: str) -> Callable[[Figures], str]:
    def cell(plan: Figures) -> str:
        return f"{1e3 * plan['seconds'][name]:,.1f} ms" if plan["seconds"] else ""

    return cell


def _range(values: Sequence[float], unit: str, decimals: int = 0) -> str:
    first, last = (f"{value:,.{decimals}f}" for value in values)
    return f"{first} {unit}" if first == last else f"{first} to {last} {unit}"


def _of_ends(plan: Figures, value: Callable[[float], float], unit: str, decimals: int) -> str:
    if not plan["seconds"]:
        return ""
    ends = plan["seconds"]["all_at_once"], plan["seconds"]["in_order"]
    return _range([value(end) for end in ends], unit, decimals)


def _asynchronous(plan: Figures) -> str:
    layers = plan["layers"]
    return f"{100 * layers['asynchronous'] / max(1, layers['bytes']):.0f} %" if layers else ""


CELLS: dict[str, Callable[[Figures], str]] = {
    "mesh": lambda plan: f"{plan['mesh']} ({plan['devices']})",
    "settings": lambda plan: f"ZeRO {plan['zero']}, remat {plan['remat']}",
    "micro-batches": lambda plan: f"{plan['accumulation']} of {plan['micro_batch']}",
    "memory": _memory,
    "the program": lambda plan: f"{plan['program_flops'] / 1e12:,.1f} TFLOP",
    "arithmetic": _milliseconds("arithmetic"),
    "main memory": _milliseconds("memory"),
    "links": _milliseconds("links"),
    "exposed": _milliseconds("exposed"),
    "a step": lambda plan: _of_ends(plan, lambda end: 1e3 * end, "ms", 0),
    "MFU": lambda plan: _range([100 * x for x in plan["mfu"]], "%") if plan["mfu"] else "",
    "tokens/s": lambda plan: _of_ends(plan, lambda end: plan["tokens"] / end, "", 0).strip(),
    "a device's": lambda p: _of_ends(
        p, lambda end: p["tokens"] / end / p["devices"], "", 0
    ).strip(),
    "days": lambda plan: _range(plan["days"], "", 1).strip() if plan["days"] else "",
    "layers' bytes asynchronous": _asynchronous,
    "compiled in": lambda plan: f"{plan['compiled_in']:.0f} s",
}
