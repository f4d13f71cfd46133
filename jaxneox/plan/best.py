"""The likely best settings, compiled and told apart."""

import sys

from jaxneox.config import Settings
from jaxneox.errors import UserError
from jaxneox.parallel.mesh import make_mesh
from jaxneox.plan.planned import Planned, TooLarge, compile_for
from jaxneox.plan.report import GIB, columns
from jaxneox.plan.search import Candidate, ranked
from jaxneox.plan.setup import plan_of
from jaxneox.plan.times import links_of
from jaxneox.plan.topology import Topology
from jaxneox.train.plan import TrainPlan

TRIES = 3
"""Programs compiled in vain for each that is asked for, until the search gives up."""

ALIKE = 0.01
"""By which the times of two plans differ that are equally fast: peak rates tell no more."""


def best(settings: Settings, plan: TrainPlan, topology: Topology, count: int) -> Planned:
    """Compiles the `count` likely fastest that fit, prints them, and returns the fastest, by the
    mean of a step in which all overlaps and one in which nothing does; of those that are equally
    fast the smallest."""
    found: list[tuple[Candidate, Planned]] = []
    order = ranked(
        plan.cfg,
        plan,
        topology,
        lambda sizes: links_of(make_mesh(sizes, topology.devices), topology),
    )
    print(f"{len(order)} settings should fit; by formulas the best are compiled", file=sys.stderr)
    for estimate in order[: TRIES * count]:
        one = estimate.candidate
        try:
            candidate, _ = plan_of(Settings(one.keys(settings.keys, plan.cfg)), one.mesh)
            planned = compile_for(candidate, topology)
            if not planned.fits:
                raise TooLarge(f"needs {planned.total / GIB:,.1f} GiB of a device")
        except UserError as error:  # too large, or a kernel that has no such mesh
            print(f"  {one}: {error}", file=sys.stderr)
            continue
        print(f"  {one}: compiled in {planned.compiled.seconds:.0f} s", file=sys.stderr)
        found.append((one, planned))
        if len(found) == count:
            break
    if not found:
        raise TooLarge(f"none of the {TRIES * count} likely best fits on {topology.name}")
    least = min(middle(planned) for _, planned in found)

    def order_of(pair: tuple[Candidate, Planned]) -> tuple[bool, float]:
        step = middle(pair[1])
        near = step <= (1 + ALIKE) * least
        return not near, pair[1].total if near else step

    found.sort(key=order_of)
    print(table(found) + "\n")
    return found[0][1]


def middle(planned: Planned) -> float:
    assert planned.times is not None
    return (planned.times.least + planned.times.most) / 2


def short(x: float, decimals: int = 0) -> str:
    """With so many decimals; of a number that has one digit then, two that count."""
    return f"{x:,.{decimals}f}" if x * 10**decimals >= 10 else f"{x:.2g}"


def table(found: list[tuple[Candidate, Planned]]) -> str:
    rows = [["settings", "GiB", "arithmetic", "memory", "links", "ms", "MFU", "days"]]
    for one, planned in found:
        times, step = planned.times, middle(planned)
        assert times is not None
        rows.append(
            [str(one), short(planned.total / GIB, 1)]
            + [short(1e3 * x) for x in (times.flops, times.memory, times.links, step)]
            + [f"{100 * planned.mfu(step):.0f} %", short(planned.days(step), 1)]
        )
    why = (
        "  ms: arithmetic, memory and links at their rates; a step between all at once and links "
        "alone"
    )
    return "\n".join([*columns(rows, left=1), why])
