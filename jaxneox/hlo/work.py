"""What one run of a compiled program computes and moves on a device: FLOPs, and bytes of memory."""

import math
import re
from typing import NamedTuple

from jaxneox.hlo.convolution import convolution_flops
from jaxneox.hlo.text import Instruction, Program, arrays, called, main_memory_bytes, parse, trips

Shapes = dict[str, str]
"""The types of a computation's instructions by name."""

NOTHING_MOVES = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
NOTHING_MOVES |= {"while", "conditional", "call", "partition-id", "replica-id", "copy-done"}
COLLECTIVES = ("all-", "reduce-scatter", "collective-")


class Work(NamedTuple):
    """Of one run, on one device.

    Attributes:
        flops: 2 for each multiplication and addition of matrix products and convolutions; of
            elementwise work nothing.
        bytes: read from and written to main memory, if each instruction (a fusion is one) reads
            what it takes once and writes what it makes once. Of a slice, and of an update in
            place, only the part.
    """

    flops: int
    bytes: int

    def times(self, count: int) -> "Work":
        return Work(self.flops * count, self.bytes * count)


def work(text: str) -> Work:
    program = parse(text)
    return _of(program, program.entry, {})


def _of(program: Program, name: str, known: dict[str, Work]) -> Work:
    """Of a computation whose instructions run one after the other."""
    if name not in known:
        body = program.computations.get(name, [])
        shapes = {one.name: one.shape for one in body}
        known[name] = _sum(of_instruction(program, one, shapes, known) for one in body)
    return known[name]


def of_instruction(
    program: Program, this: Instruction, shapes: Shapes, known: dict[str, Work]
) -> Work:
    """`known` keeps what computations do."""

    def inner(attributes: str) -> list[Work]:
        return [_of(program, name, known) for name in called(this, attributes)]

    if this.opcode == "while":
        return _sum(inner("body|condition")).times(trips(program, this)[0])
    if this.opcode == "conditional":
        branches = inner("branch_computations|true_computation|false_computation")
        return max(branches, default=Work(0, 0))
    if this.opcode in ("call", "async-start"):
        return _sum(inner("calls|to_apply"))
    if this.opcode == "fusion":
        flops = sum(_fused_flops(program, name) for name in called(this, "calls"))
        return Work(flops, _fusion_bytes(program, this, shapes))
    return Work(_flops(this, shapes), _bytes(this, shapes))


def _sum(parts) -> Work:
    flops, moved = 0, 0
    for part in parts:
        flops, moved = flops + part.flops, moved + part.bytes
    return Work(flops, moved)


def _fused_flops(program: Program, name: str) -> int:
    body = program.computations.get(name, [])
    shapes = {one.name: one.shape for one in body}
    own = sum(_flops(one, shapes) for one in body)
    inner = (n for one in body if one.opcode in ("fusion", "call") for n in called(one, "calls"))
    return own + sum(_fused_flops(program, n) for n in inner)


def _flops(this: Instruction, shapes: Shapes) -> int:
    """A product has two FLOPs for each number of its result and of what is summed over."""
    if this.opcode == "convolution":
        return convolution_flops(this, shapes)
    if this.opcode != "dot":
        return 0
    ((_, left, _),) = arrays(shapes[this.operands[0]])
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", this.rest)
    summed = [int(i) for i in found[1].split(",") if i] if found else []
    ((_, result, _),) = arrays(this.shape)
    return 2 * math.prod(result) * math.prod(left[i] for i in summed)


def _bytes(this: Instruction, shapes: Shapes) -> int:
    if this.opcode in NOTHING_MOVES or this.opcode.endswith("-done"):
        return 0
    result = main_memory_bytes(this.shape)
    if this.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * result
    if this.opcode == "dynamic-update-slice":
        return 2 * main_memory_bytes(shapes[this.operands[1]])
    if this.opcode.endswith("-start"):  # its type holds operand and result
        return result
    return result + sum(main_memory_bytes(shapes.get(name, "")) for name in this.operands)


def _fusion_bytes(program: Program, this: Instruction, shapes: Shapes) -> int:
    """Of a fusion's parameters what its computation takes of them; of its result what it writes.

    What a collective fills beside the fusion's own work is left to the links.
    """
    (name,) = called(this, "calls")
    body = program.computations.get(name, [])
    sent = {one.shape.split("{")[0] for one in body if one.opcode.startswith(COLLECTIVES)}
    inside = {one.name: one for one in body}
    taken = {one.name: [use for use in body if one.name in use.operands] for one in body}
    parameters = sorted(
        (one for one in body if one.opcode == "parameter"),
        key=lambda one: int(one.rest.split(")")[0]),
    )
    total = 0
    for parameter, operand in zip(parameters, this.operands, strict=False):
        uses = taken[parameter.name]
        if uses and all(use.opcode in ("dynamic-slice", "gather") for use in uses):
            total += sum(main_memory_bytes(use.shape) for use in uses)
        elif not _updated(parameter.name, uses) and parameter.shape.split("{")[0] not in sent:
            total += main_memory_bytes(shapes.get(operand, ""))
    updates = [one for one in body if one.opcode == "dynamic-update-slice"]
    in_place = {one.shape.split("{")[0] for one in updates}
    for part in _parts(this.shape):
        if part.split("{")[0] not in in_place | sent:
            total += main_memory_bytes(part)
    for one in updates:
        total += 2 * main_memory_bytes(inside[one.operands[1]].shape)
    return total


def _updated(name: str, uses: list[Instruction]) -> bool:
    """Whether a parameter is only updated in place."""
    return bool(uses) and all(
        use.opcode == "dynamic-update-slice" and use.operands[0] == name for use in uses
    )


def _parts(shape: str) -> list[str]:
    return re.findall(r"[a-z]\w*\[[\d,<=]*\](?:\{[^}]*\})?", shape)
