"""The collectives in a compiled program's text, each with how often a run of it does them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from jaxneox.hlo.groups import Groups, parse_groups
from jaxneox.hlo.text import (
    BRANCHES,
    Instruction,
    Program,
    called,
    elements,
    parse,
    trips,
    type_bytes,
)

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


@dataclass(frozen=True)
class Collective:
    """One collective instruction.

    Attributes:
        kind: its opcode, without -start.
        groups: who takes part together, as positions in the mesh's order of devices; of a
            permute the pairs (source, target). Empty: all devices. A str: text not understood.
        bytes: its payload on one device, once: what the device holds of the result, except for a
            reduce-scatter, where it is the operand that each device gives.
        count: how often one run of the program does it.
        length: where the count comes from: "known" to the compiler; "derived" from a loop's
            condition, counting from 0 by 1 as jax does; "least", where a loop's length is not in
            the text and it counts as one pass.
        loops: how often each loop around it goes round, the outermost first.
    """

    kind: str
    groups: Groups | str
    bytes: int
    count: int = 1
    length: str = "known"
    loops: tuple[int, ...] = field(default=(), compare=False)


def collectives(text: str) -> list[Collective]:
    """List all collectives of a program's text; those in a loop count as often as it goes round."""
    program = parse(text)
    return list(_of(program, program.entry, {}))


def _of(program: Program, name: str, known: dict[str, list[Collective]]) -> list[Collective]:
    """List what a computation does, with all that it calls."""
    if name not in known:
        body = program.computations.get(name, ())
        known[name] = [one for this in body for one in of_instruction(program, this, known)]
    return known[name]


def of_instruction(
    program: Program, this: Instruction, known: dict[str, list[Collective]]
) -> Iterator[Collective]:
    """Yield what one instruction does. `known` keeps what computations do."""
    kind = this.opcode.removesuffix("-start")
    if kind in KINDS:
        groups = parse_groups(this.rest)
        yield Collective(kind, groups, _payload(this, kind, groups))
    elif this.opcode == "while":
        times, length = trips(program, this)
        for part in ("body", "condition"):
            for name in called(this, part):
                yield from (repeated(one, times, length) for one in _of(program, name, known))
    elif this.opcode == "conditional":
        branches = [_of(program, name, known) for name in called(this, BRANCHES)]
        yield from max(branches, key=lambda b: sum(c.bytes * c.count for c in b), default=[])
    elif not this.opcode.endswith(("-done", "-update")) and not _goes_on(program, this):
        for name in called(this, "calls|to_apply|called_computations"):
            for one in _of(program, name, known):
                yield _scattered(one) if name.startswith("all-reduce-scatter") else one


def _goes_on(program: Program, this: Instruction) -> bool:
    """Tell whether a fusion continues a collective that another has begun.

    A TPU's program sends while it computes, fusion after fusion, also into a loop and out of it,
    and each of them names the whole collective.
    """
    if this.opcode != "fusion":
        return False
    parts = [one.rest for name in called(this, "calls") for one in program.computations[name]]
    if not any("chain_id=" in part for part in parts):
        return False
    return not any('custom_call_target="AsyncCollectiveStart"' in part for part in parts)


def _scattered(one: Collective) -> Collective:
    """Call an all-reduce in a fusion of that name a reduce-scatter.

    A TPU's program has a reduce-scatter so: as an all-reduce and a slice of its result, which the
    hardware never makes whole.
    """
    return replace(one, kind="reduce-scatter") if one.kind == "all-reduce" else one


def repeated(one: Collective, times: int, length: str) -> Collective:
    """Put a collective into a loop that goes round so often, as far as that is known."""
    worse = max(one.length, length, key=("known", "derived", "least").index)
    return replace(one, count=one.count * times, length=worse, loops=(times, *one.loops))


def _payload(this: Instruction, kind: str, groups: Groups | str) -> int:
    """Count the payload's bytes, see `Collective`.

    A -start's type holds operands and result, (operands, result, …); only all-reduce-start has its
    result's type alone.
    """
    shape = this.shape
    pair = shape.startswith("((" if kind == "all-reduce" else "(")
    if this.opcode.endswith("-start") and pair:
        shape = elements(shape)[1]
    size = type_bytes(shape)
    if kind == "reduce-scatter":
        size *= len(groups[0]) if groups and not isinstance(groups, str) else 1
    return size
