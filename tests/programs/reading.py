"""What is read in a compiled program's text: who computes, in what dtype, and what is sent."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from jaxneox.hlo.collectives import Collective
from jaxneox.hlo.library_calls import target_of
from jaxneox.hlo.overlap import in_layers, sendings
from jaxneox.hlo.sent import axes_of, rows
from jaxneox.hlo.text import Program, parse
from jaxneox.hlo.work import Work, work


def facts(text: str, sizes: Mapping[str, int], layers: int) -> dict[str, Any]:
    """Plain numbers and words.

    Returns:
        `calls`: how often each library or kernel is called in the text; `products`: how many
        there are in the text, by the dtype of their operands; `flops` of a run; `sent`: kind,
        axes, count and bytes; `layers`: kind, axes and bytes of what one round of the loops over
        layers sends, and whether it is asynchronous and beside products.
    """
    program = parse(text)
    everything = (one for body in program.computations.values() for one in body)
    axes = tuple(sizes.items())

    def named(one: Collective) -> str:
        return axes_of(one.groups, axes, one.kind == "collective-permute")

    def rates(one: Collective) -> tuple[str, float] | None:
        return ("links", 1.0) if named(one) else None

    def computes(done: Work) -> float:
        return 0.0

    inside = in_layers(sendings(text, rates, computes), layers)
    return {
        "calls": Counter(filter(None, map(target_of, everything))),
        "products": products(program),
        "flops": work(text).flops,
        "sent": [(row.kind, row.axes, row.count, row.bytes) for row in rows(text, sizes, layers)],
        "layers": [
            (it.kind, named(it), it.bytes, one.asynchronous, one.products)
            for one in inside
            for it in [one.collective]
        ],
    }


def products(program: Program) -> dict[str, int]:
    """Count the products by the dtype of their operands."""
    found: Counter[str] = Counter()
    for body in program.computations.values():
        shapes = {one.name: one.shape for one in body}
        for one in body:
            if one.opcode in ("dot", "convolution"):
                kinds = {shapes[name].split("[")[0] for name in one.operands[:2]}
                found["x".join(sorted(kinds))] += 1
    return found
