"""The collectives in a compiled program's text, each with how often a run of it does them.

The text is XLA's HLO as `compiled.as_text()` prints it: computations of one instruction a line,
`%name = TYPE opcode(operands), attributes`, where loops, calls and fusions name other
computations.
"""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
Groups = tuple[tuple[int, ...], ...]


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
    """

    kind: str
    groups: Groups | str
    bytes: int
    count: int = 1
    length: str = "known"


class Instruction(NamedTuple):
    shape: str  # its type
    opcode: str
    rest: str  # from the operands on, without the names that Python gave


@dataclass
class Program:
    """Instructions by computation, and the one where it starts."""

    computations: dict[str, list[Instruction]]
    entry: str


def collectives(text: str) -> list[Collective]:
    """All collectives of a program's text; those in a loop counted as often as it goes round."""
    program = parse(text)
    return list(_of(program, program.entry, {}))


def parse(text: str) -> Program:
    """Raises ValueError for a text without an ENTRY computation."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([^\s(]+) .*\{$", line)
        if head and not line.startswith("HloModule"):
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            current.append(_instruction(line))
    if not entry:
        raise ValueError("no ENTRY computation: this is no HLO of a whole program")
    return Program(computations, entry)


def _instruction(line: str) -> Instruction:
    line = re.sub(r'op_name="(?:[^"\\]|\\.)*"', "", line)
    right = line.split(" = ", 1)[1]
    end = _closing(right) if right.startswith("(") else right.index(" ")
    shape, rest = right[:end], right[end:].strip()
    opcode, _, rest = rest.partition("(")
    return Instruction(shape, opcode, rest)


def _closing(text: str) -> int:
    """Where the parenthesis that opens `text` has been closed."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return i + 1
    return len(text)


def _of(program: Program, name: str, known: dict[str, list[Collective]]) -> list[Collective]:
    """What a computation does, with all that it calls."""
    if name not in known:
        known[name] = [
            found
            for instruction in program.computations.get(name, ())
            for found in _of_instruction(program, instruction, known)
        ]
    return known[name]


def _of_instruction(
    program: Program, this: Instruction, known: dict[str, list[Collective]]
) -> Iterator[Collective]:
    kind = this.opcode.removesuffix("-start")
    if kind in KINDS:
        groups = parse_groups(this.rest)
        yield Collective(kind, groups, _payload(this, kind, groups))
    elif this.opcode == "while":
        times, length = _trips(program, this)
        for part in ("body", "condition"):
            for name in _called(this, part):
                yield from (_repeated(one, times, length) for one in _of(program, name, known))
    elif this.opcode == "conditional":
        names = _called(this, "branch_computations|true_computation|false_computation")
        branches = [_of(program, name, known) for name in names]
        yield from max(branches, key=lambda b: sum(c.bytes * c.count for c in b), default=[])
    elif not this.opcode.endswith(("-done", "-update")):
        for name in _called(this, "calls|to_apply|called_computations"):
            yield from _of(program, name, known)


def _repeated(one: Collective, times: int, length: str) -> Collective:
    worse = max(one.length, length, key=("known", "derived", "least").index)
    return replace(one, count=one.count * times, length=worse)


def _called(this: Instruction, attributes: str) -> list[str]:
    found = re.findall(rf"\b(?:{attributes})=(\{{[^}}]*\}}|[^\s,]+)", this.rest)
    return [name.strip(" %") for names in found for name in names.strip("{}").split(",") if name]


def _trips(program: Program, loop: Instruction) -> tuple[int, str]:
    """How often a loop goes round, and how that is known."""
    stated = re.search(r"known_trip_count\W+n\W+(\d+)", loop.rest)
    if stated:
        return int(stated[1]), "known"
    bounds, directions = set(), set()
    names = _called(loop, "condition")
    while names:
        for one in program.computations.get(names.pop(), ()):
            if one.opcode == "constant" and re.fullmatch(r"[su]\d+\[\](\{.*\})?", one.shape):
                bounds.add(int(one.rest.split(")")[0]))
            directions |= set(re.findall(r"direction=(\w+)", one.rest))
            names += _called(one, "calls|to_apply")
    if len(bounds) == 1 and directions == {"LT"}:
        return bounds.pop(), "derived"
    return 1, "least"


def _payload(this: Instruction, kind: str, groups: Groups | str) -> int:
    """See Collective.bytes. A -start's type holds operands and result: (operands, result, …);
    only all-reduce-start has its result's type alone."""
    shape = this.shape
    pair = shape.startswith("((" if kind == "all-reduce" else "(")
    if this.opcode.endswith("-start") and pair:
        shape = _elements(shape)[1]
    size = type_bytes(shape)
    if kind == "reduce-scatter":
        size *= len(groups[0]) if groups and not isinstance(groups, str) else 1
    return size


def _elements(shape: str) -> list[str]:
    """The outermost elements of a tuple's type."""
    parts, depth = [""], 0
    for character in shape[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def type_bytes(shape: str) -> int:
    """Bytes of `f32[2,3]{1,0}`, or of all arrays of a tuple; bits are rounded up per array."""
    total = 0
    for kind, sizes in re.findall(r"\b([a-z]\w*)\[([\d,<=]*)\]", shape):
        width = re.search(r"\d+", kind)
        bits = int(width[0]) if width else 8 * (kind == "pred")
        count = math.prod(int(size.strip("<=")) for size in sizes.split(",") if size)
        total += -(-bits * count // 8)
    return total


def parse_groups(attributes: str) -> Groups | str:
    """The groups, or the pairs, of a collective's attributes; () for all devices.

    Forms: {{0,1},{2,3}}; [4,2]<=[2,4]T(1,0), which numbers an array of the sizes on the right,
    transposes it and cuts it into rows; mesh['a'=2,'b'=4] {'a'}, groups along axes of a mesh of
    its own, maybe with device_ids=(…) and with parts of axes, 'a':(2)2.
    """
    pairs = re.search(r"source_target_pairs=(\{\{[\d,{} ]*\}\}|\{\})", attributes)
    if pairs:
        return _braces(pairs[1])
    start = attributes.find("replica_groups=")
    if start < 0:
        return ()
    text = attributes[start + len("replica_groups=") :]
    if braces := re.match(r"\{\{[\d,{} ]*\}\}|\{\}", text):
        return _braces(braces[0])
    if cut := re.match(r"\[([\d,]+)\](<=\S*?)(?:, |$|\s)", text):
        return _rows(_numbered(cut[2], _sizes(cut[1])))
    if mesh := re.match(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", text):
        return _along(*mesh.groups())
    return text.split(", ")[0]


def _braces(text: str) -> Groups:
    groups = re.findall(r"\{([\d, ]+)\}", text)
    return tuple(tuple(_sizes(group)) for group in groups)


def _sizes(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number.strip()]


def _numbered(text: str, shape: list[int]) -> np.ndarray:
    """`<=[2,4]T(1,0)`, or the same without its arrow: the numbers from 0 on, laid out."""
    form = re.match(r"(?:<=)?\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    assert form is not None
    sizes = _sizes(form[1])
    order = _sizes(form[2]) if form[2] else list(range(len(sizes)))
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(order).reshape(shape)


def _rows(numbers: np.ndarray) -> Groups:
    return tuple(tuple(map(int, row)) for row in numbers)


def _along(axes: str, device_ids: str | None, chosen: str) -> Groups:
    """The groups along the chosen axes of a mesh, or along parts of them."""
    names, sizes = zip(*(axis.rsplit("=", 1) for axis in axes.split(",")), strict=True)
    shape = list(map(int, sizes))
    if device_ids is None:
        numbers = np.arange(math.prod(shape))
    elif device_ids.startswith("["):
        numbers = _numbered(device_ids, [-1])
    else:
        numbers = np.array(_sizes(device_ids))
    split: list[int] = []  # the sizes with the parts of axes as axes
    group: list[int] = []  # the places in it along which the groups lie
    parts = [re.fullmatch(r"(.*?)(?::\((\d+)\)(\d+))?", part) for part in chosen.split(",") if part]
    for name, size in zip(names, shape, strict=True):
        cuts = {1, size}
        wanted = []
        for part in parts:
            assert part is not None
            if part[1] == name:
                before, own = int(part[2] or 1), int(part[3] or size)
                wanted.append((before, before * own))
                cuts |= set(wanted[-1])
        edges = sorted(cuts)
        for low, high in itertools.pairwise(edges):
            if any(a <= low and high <= b for a, b in wanted):
                group.append(len(split))
            split.append(high // low)
    others = [i for i in range(len(split)) if i not in group]
    per_group = math.prod(split[i] for i in group)
    return _rows(numbers.reshape(split).transpose(others + group).reshape(-1, per_group))
