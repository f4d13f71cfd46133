"""Compiles the settings that are likely the best, and ranks them by what the compiler says."""

from collections.abc import Callable

from jaxneox.config import Settings
from jaxneox.console.columns import columns
from jaxneox.console.say import say, tell
from jaxneox.errors import UserError
from jaxneox.parallel.mesh import make_mesh
from jaxneox.plan.planned import Planned, TooLarge, compile_for
from jaxneox.plan.report import GIB
from jaxneox.plan.search import Candidate, ranked
from jaxneox.plan.setup import plan_of
from jaxneox.plan.times import links_of
from jaxneox.plan.topology import Topology
from jaxneox.train.plan import TrainPlan

MAX_TRIES = 3
"""At most so many compilations for each mesh that `--search N` asks for."""

EQUAL_WITHIN = 0.01
"""The relative difference below which two times count as equal: peak rates tell no more."""


def best(
    settings: Settings,
    plan: TrainPlan,
    topology: Topology,
    count: int,
    show: Callable[[str], None] = say,
) -> Planned:
    """Compile the `count` likely fastest settings that fit, print them, and return the best.

    The best is the fastest by the mean of a step in which everything overlaps and one that waits
    for what is exposed; of equally fast ones the smallest.
    """
    compiled: list[tuple[Candidate, Planned]] = []
    order = ranked(
        plan.cfg,
        plan,
        topology,
        lambda sizes: links_of(make_mesh(sizes, topology.devices), topology),
    )
    tell(f"{len(order)} settings should fit; by formulas the best are compiled")
    for estimate in order[: MAX_TRIES * count]:
        one = estimate.candidate
        try:
            keys = one.keys(settings.keys, plan.cfg)
            candidate, _ = plan_of(Settings(keys), one.mesh, topology)
            planned = compile_for(candidate, topology)
            if not planned.fits:
                raise TooLarge(f"needs {planned.needed / GIB:,.1f} GiB of a device")
        except UserError as error:  # too large, or a kernel that has no such mesh
            tell(f"  {one}: {error}")
            continue
        tell(f"  {one}: compiled in {planned.compiled.seconds:.0f} s")
        compiled.append((one, planned))
        if len(compiled) == count:
            break
    if not compiled:
        raise TooLarge(f"none of the {MAX_TRIES * count} likely best fits on {topology.name}")
    least = min(middle(planned) for _, planned in compiled)

    def order_of(pair: tuple[Candidate, Planned]) -> tuple[bool, float]:
        step = middle(pair[1])
        near = step <= (1 + EQUAL_WITHIN) * least
        return not near, pair[1].needed if near else step

    compiled.sort(key=order_of)
    show(table(compiled) + "\n")
    return compiled[0][1]


def middle(planned: Planned) -> float:
    assert planned.times is not None
    return (planned.times.least + planned.times.most) / 2


def short(x: float, decimals: int = 0) -> str:
    """Format a number with so many decimals; one that would have one digit then, with two."""
    return f"{x:,.{decimals}f}" if x * 10**decimals >= 10 else f"{x:.2g}"


def table(compiled: list[tuple[Candidate, Planned]]) -> str:
    rows = [["settings", "GiB", "arithmetic", "memory", "links", "exposed", "ms", "MFU", "days"]]
    for one, planned in compiled:
        times, step = planned.times, middle(planned)
        assert times is not None
        rows.append(
            [str(one), short(planned.needed / GIB, 1)]
            + [
                short(1e3 * x)
                for x in (times.flops, times.memory, times.links, times.exposed, step)
            ]
            + [f"{100 * planned.mfu(step):.0f} %", short(planned.days(step), 1)]
        )
    why = (
        "  ms: arithmetic, memory and links at their rates, and what of the links is exposed; ms "
        "of a step: between full overlap of the three and waiting for what is exposed"
    )
    return "\n".join([*columns(rows, left=1, indent="  "), why])
