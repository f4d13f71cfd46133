"""What one run of a compiled program computes and moves on a device: FLOPs, and bytes of memory."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jaxneox.hlo.convolution import convolution_flops
from jaxneox.hlo.library_calls import call_flops, written_bytes
from jaxneox.hlo.text import (
    BRANCHES,
    Instruction,
    Program,
    arrays,
    called,
    main_memory_bytes,
    parse,
    trips,
)

Shapes = dict[str, str]
"""The types of a computation's instructions by name."""

NOTHING_MOVES = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
NOTHING_MOVES |= {"while", "conditional", "call", "partition-id", "replica-id", "copy-done"}
COLLECTIVES = ("all-", "reduce-scatter", "collective-")


class Work(NamedTuple):
    """The work of one run, on one device.

    Attributes:
        flops: 2 for each multiplication and addition of matrix products, convolutions and a
            library's calls; nothing for elementwise work.
        bytes: read from and written to main memory, if each instruction (a fusion is one) reads
            what it takes once and writes what it makes once. Of a slice, and of an update in
            place, only the part counts.
    """

    flops: int
    bytes: int

    def times(self, count: int) -> "Work":
        return Work(self.flops * count, self.bytes * count)


def work(text: str) -> Work:
    program = parse(text)
    return _of(program, program.entry, {})


def _of(program: Program, name: str, known: dict[str, Work]) -> Work:
    """Add up a computation whose instructions run one after the other."""
    if name not in known:
        body = program.computations.get(name, [])
        shapes = {one.name: one.shape for one in body}
        known[name] = _sum(of_instruction(program, one, shapes, known) for one in body)
    return known[name]


def of_instruction(
    program: Program, this: Instruction, shapes: Shapes, known: dict[str, Work]
) -> Work:
    """Count the work of one instruction. `known` keeps that of computations."""

    def inner(attributes: str) -> list[Work]:
        return [_of(program, name, known) for name in called(this, attributes)]

    if this.opcode == "while":
        return _sum(inner("body|condition")).times(trips(program, this)[0])
    if this.opcode == "conditional":
        return max(inner(BRANCHES), default=Work(0, 0))
    if this.opcode in ("call", "async-start"):
        return _sum(inner("calls|to_apply"))
    if this.opcode == "fusion":
        flops = sum(_fused_flops(program, name) for name in called(this, "calls"))
        return Work(flops, _fusion_bytes(program, this, shapes))
    return Work(_flops(this, shapes), _bytes(this, shapes))


def _sum(parts: Iterable[Work]) -> Work:
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
    """Count a product: two FLOPs for each number of its result and of what is summed over."""
    if this.opcode == "convolution":
        return convolution_flops(this, shapes)
    if this.opcode == "custom-call":
        return call_flops(this, shapes)
    if this.opcode != "dot":
        return 0
    ((_, left, _),) = arrays(shapes[this.operands[0]])
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", this.rest)
    summed = [int(i) for i in match[1].split(",") if i] if match else []
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
    if this.opcode == "custom-call":
        result = written_bytes(this)
    return result + sum(main_memory_bytes(shapes.get(name, "")) for name in this.operands)


def _fusion_bytes(program: Program, this: Instruction, shapes: Shapes) -> int:
    """Count what a fusion's computation takes of its parameters, and what it writes of its result.

    What a collective fills beside the fusion's own work is left to the links.
    """
    (name,) = called(this, "calls")
    body = list(_inside(program, name))
    sent = {_type(one.shape) for one in body if one.opcode.startswith(COLLECTIVES)}
    total = 0
    for parameter, operand in zip(_parameters(program, name), this.operands, strict=False):
        if _type(parameter.shape) not in sent:
            whole = main_memory_bytes(shapes.get(operand, ""))
            total += min(whole, _taken(program, name, parameter, whole))
    within = {one.name: one.shape for one in body}
    updates = [one for one in body if one.opcode == "dynamic-update-slice"]
    in_place = {_type(one.shape) for one in updates}
    for part in _parts(this.shape):
        if _type(part) not in in_place | sent:
            total += main_memory_bytes(part)
    for one in updates:
        total += 2 * main_memory_bytes(within[one.operands[1]])
    return total


def _inside(program: Program, name: str) -> Iterator[Instruction]:
    """Count what a fusion's computation does, with that of the fusions in it."""
    for one in program.computations.get(name, []):
        yield one
        if one.opcode == "fusion":
            for inner in called(one, "calls"):
                yield from _inside(program, inner)


def _parameters(program: Program, name: str) -> list[Instruction]:
    body = program.computations.get(name, [])
    parameters = (one for one in body if one.opcode == "parameter")
    return sorted(parameters, key=lambda one: int(one.rest.split(")")[0]))


def _taken(program: Program, name: str, value: Instruction, whole: int) -> int:
    """Count the bytes that a fusion's computation reads of a value in it.

    It reads the parts of slices, nothing of what is updated in place, the `whole` of all else.
    """
    total = 0
    for use in program.computations[name]:
        if value.name not in use.operands:
            continue
        if use.opcode in ("dynamic-slice", "slice", "gather"):
            total += main_memory_bytes(use.shape)
        elif use.opcode == "bitcast":
            total += _taken(program, name, use, whole)
        elif use.opcode == "fusion":
            (inner,) = called(use, "calls")
            for theirs, operand in zip(_parameters(program, inner), use.operands, strict=False):
                if operand == value.name:
                    total += _taken(program, inner, theirs, whole)
        elif use.opcode != "dynamic-update-slice" or use.operands[0] != value.name:
            total += whole
    return total


def _type(shape: str) -> str:
    """Return a type without its layout."""
    return shape.split("{")[0]


def _parts(shape: str) -> list[str]:
    return re.findall(r"[a-z]\w*\[[\d,<=]*\](?:\{[^}]*\})?", shape)
