"""A compiled program's text, parsed: computations of instructions that name each other.

The text is XLA's HLO as `compiled.as_text()` prints it: computations of one instruction a line,
`%name = TYPE opcode(operands), attributes`, where loops, calls and fusions name other
computations.
"""

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

BRANCHES = "branch_computations|true_computation|false_computation"
"""The attributes of a conditional that name its computations, or its two by their own names."""


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str  # its type
    opcode: str
    rest: str  # from the operands on, without the names that Python gave
    root: bool = False

    @property
    def operands(self) -> list[str]:
        """The names of the instructions whose results it takes."""
        return re.findall(r"%([\w.\-]+)", self.rest[: _closing("(" + self.rest) - 1])


@dataclass
class Program:
    """Instructions by computation, and the computation where the program starts."""

    computations: dict[str, list[Instruction]]
    entry: str


def parse(text: str) -> Program:
    """Parse a program's text.

    Raises:
        ValueError: the text has no ENTRY computation.
    """
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
    left, right = line.strip().split(" = ", 1)
    name = left.removeprefix("ROOT ").lstrip("%")
    end = _closing(right) if right.startswith("(") else right.index(" ")
    shape, rest = right[:end], right[end:].strip()
    opcode, _, rest = rest.partition("(")
    return Instruction(name, shape, opcode, rest, left.startswith("ROOT "))


def _closing(text: str) -> int:
    """Find where the parenthesis that opens `text` is closed."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return i + 1
    return len(text)


def called(this: Instruction, attributes: str) -> list[str]:
    values = re.findall(rf"\b(?:{attributes})=(\{{[^}}]*\}}|[^\s,]+)", this.rest)
    return [name.strip(" %") for names in values for name in names.strip("{}").split(",") if name]


def trips(program: Program, loop: Instruction) -> tuple[int, str]:
    """Return how often a loop goes round, and how that is known."""
    stated = re.search(r"known_trip_count\W+n\W+(\d+)", loop.rest)
    if stated:
        return int(stated[1]), "known"
    bounds, directions = set(), set()
    names = called(loop, "condition")
    while names:
        for one in program.computations.get(names.pop(), ()):
            if one.opcode == "constant" and re.fullmatch(r"[su]\d+\[\](\{.*\})?", one.shape):
                bounds.add(int(one.rest.split(")")[0]))
            directions |= set(re.findall(r"direction=(\w+)", one.rest))
            names += called(one, "calls|to_apply")
    if len(bounds) == 1 and directions == {"LT"}:
        return bounds.pop(), "derived"
    return 1, "least"


def elements(shape: str) -> list[str]:
    """List the outermost elements of a tuple's type."""
    parts, depth = [""], 0
    for character in shape[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def type_bytes(shape: str) -> int:
    """Count the bytes of `f32[2,3]{1,0}`, or of a tuple's arrays; bits are rounded up per array."""
    return sum(-(-bits * math.prod(sizes) // 8) for bits, sizes, _ in arrays(shape))


def main_memory_bytes(shape: str) -> int:
    """Count the bytes of those arrays that are in a device's main memory.

    A TPU's program says where the others are, as S(1) in their layout: its own fast memory.
    """
    return sum(-(-bits * math.prod(sizes) // 8) for bits, sizes, own in arrays(shape) if not own)


def arrays(shape: str) -> list[tuple[int, list[int], bool]]:
    """List each array's bits of an element, sizes, and whether it is outside main memory."""
    result = []
    for kind, sizes, layout in re.findall(r"\b([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?", shape):
        width = re.search(r"\d+", kind)
        bits = int(width[0]) if width else 8 * (kind == "pred")
        lengths = [int(size.strip("<=")) for size in sizes.split(",") if size]
        result.append((bits, lengths, bool(re.search(r"S\([1-9]", layout))))
    return result
