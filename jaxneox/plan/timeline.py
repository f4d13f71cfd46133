"""What a device does in one pass of the loops over layers, in order, at peak rates."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jaxneox.hlo import collectives, work
from jaxneox.hlo.sent import axes_of, row_of
from jaxneox.hlo.text import BRANCHES, Instruction, Program, called, parse, trips
from jaxneox.parallel.mesh import shown_axes
from jaxneox.plan.planned import Planned


@dataclass(frozen=True)
class Interval:
    """One instruction's time.

    Attributes:
        name: the instruction's.
        lane: arithmetic, memory or the mesh axes of a collective.
        start: seconds since the beginning of the pass.
        seconds: how long it takes.
    """

    name: str
    lane: str
    start: float
    seconds: float


def timelines(planned: Planned) -> list[list[Interval]]:
    """Lay out one pass of each loop over layers (forward, backward).

    Instructions come one after the other, each at the rate that bounds it.
    """
    assert planned.topology.chip is not None
    program = parse(planned.text)
    loops = _over_layers(program, program.entry, planned.depth)
    return [list(_laid(_intervals(planned, program, loop))) for loop in loops]


def _over_layers(program: Program, name: str, depth: int) -> list[Instruction]:
    """Find the loops of a computation, and of those inside them, that go round once a layer.

    A loop counts if it makes as many trips as there are layers, and no loop inside it does most of
    its work: else it is the loop over micro-batches.
    """
    loops = []
    for one in program.computations[name]:
        if one.opcode == "while":
            (body,) = called(one, "body")
            inner = _over_layers(program, body, depth)
            most = max((_flops(program, loop) for loop in inner), default=0)
            layers = trips(program, one)[0] == depth and 2 * depth * most <= _flops(program, one)
            loops += [one] if layers else inner
        elif one.opcode in ("call", "conditional"):
            for inside in called(one, f"to_apply|{BRANCHES}"):
                loops += _over_layers(program, inside, depth)
    return loops


def _flops(program: Program, loop: Instruction) -> int:
    return work.of_instruction(program, loop, {}, {}).flops


def _intervals(planned: Planned, program: Program, loop: Instruction) -> Iterator[Interval]:
    chip = planned.topology.chip
    assert chip is not None
    sizes = tuple(planned.plan.mesh_sizes.items())
    for name in called(loop, "body"):
        body = program.computations[name]
        shapes = {one.name: one.shape for one in body}
        for one in body:
            for collective in collectives.of_instruction(program, one, {}):
                axes = axes_of(collective.groups, sizes, collective.kind == "collective-permute")
                if axes:
                    seconds = planned.links.seconds(row_of(collective, axes))
                    lane = shown_axes(axes)
                    yield Interval(f"{collective.kind} {lane}", lane, 0.0, seconds)
            if one.opcode.startswith(work.COLLECTIVES):
                continue
            done = work.of_instruction(program, one, shapes, {})
            flops, moved = done.flops / chip.flops, done.bytes / chip.bandwidth
            lane = "arithmetic" if flops >= moved else "memory"
            if max(flops, moved) > 0:
                yield Interval(one.name, lane, 0.0, max(flops, moved))


def _laid(intervals: Iterator[Interval]) -> Iterator[Interval]:
    start = 0.0
    for interval in intervals:
        yield replace(interval, start=start)
        start += interval.seconds
