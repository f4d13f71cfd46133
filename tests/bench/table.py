"""What was measured, as Markdown."""

from collections.abc import Iterable, Mapping
from itertools import groupby

from tests.bench.turns import Result


def tables(results: Iterable[Result], best: Mapping[str, float]) -> str:
    """A table for those that have the same contenders. `best`: FLOP/s by dtype."""
    groups = groupby(results, lambda one: tuple(one.seconds))
    return "\n\n".join(table(names, list(rows), best) for names, rows in groups)


def table(names: tuple[str, ...], rows: list[Result], best: Mapping[str, float]) -> str:
    peers, shares = bool(rows[0].kind.peers), any(one.kind.flops for one in rows)
    head = ["", *names, *["ratio"] * peers, *["of the peak"] * shares]
    head.append(f"memory, GiB: {', '.join(names)}" if len(names) > 1 else "memory, GiB")
    lines = []
    for one in rows:
        line = [one.kind.named(one.case), *(told(one, name) for name in names)]
        line += [f"{one.ratio:.2f} x"] if one.ratio else []
        line += [share(one, best)] if shares else []
        lines.append([*line, ", ".join(f"{size / 2**30:.2f}" for size in one.memory.values())])
    drawn = [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in (head, *lines)]
    drawn.insert(1, "|---" * len(head) + "|")
    return "\n".join(drawn)


def told(one: Result, name: str) -> str:
    """A contender's median, in the kind's unit."""
    kind, seconds = one.kind, one.median[name]
    if kind.amount is not None:
        return f"{kind.amount(one.case) / seconds:,.0f} {kind.unit}"
    return f"{seconds * 1000:.2f} ms" if kind.unit == "ms" else f"{seconds:.3f} s"


def share(one: Result, best: Mapping[str, float]) -> str:
    """Of the machine's peak that we reach; nothing where the work is not counted."""
    if one.kind.flops is None:
        return ""
    return f"{one.kind.flops(one.case) / one.median['ours'] / best[one.case.dtype]:.0%}"
