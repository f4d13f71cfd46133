"""`Facts` as one screen of text."""

from collections.abc import Iterator
from textwrap import wrap

from convert.inspection import architecture
from convert.inspection.facts import TITLES, Facts, LargestDrift, Optimizer, Use
from jaxneox.console.text import one_line

WIDTH = 100
LONG = 64  # of a command, above which what it does stands on the line before
MOST_STEPS = 8
LAYOUTS = {
    "pipeline": "a file for each layer and rank (pipeline engine)",
    "sequential": "a file for each rank (Sequential engine)",
    "torch": "torch's pickles",
    "orbax": "Orbax",
}
NAMES = {"neox": {"tp": "mp"}}
"""A program's own names of axes, if they differ from ours."""


def screen(facts: Facts) -> str:
    rows = [(name, one_line(text)) for name, text in _rows(facts)]
    lines = [str(facts.path)]
    for name, text in rows:
        lines += wrap(text, WIDTH, initial_indent=f"{name:<12}", subsequent_indent=" " * 12,
                      break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return "\n".join([*lines, *_uses(facts.uses)])


def _rows(facts: Facts) -> Iterator[tuple[str, str]]:
    layout = LAYOUTS.get(facts.layout, facts.layout)
    yield "kind", f"{TITLES[facts.kind]}: {layout}"
    if facts.generation:
        yield "written by", facts.generation
    if facts.step is not None:
        yield "step", _steps(facts)
    if facts.parallel:
        names = NAMES.get(facts.kind, {})
        sizes = {names.get(axis, axis): size for axis, size in facts.parallel.items()}
        yield "ranks", ", ".join(f"{a} {'?' if n is None else n}" for a, n in sizes.items())
    if facts.architecture:
        yield from zip(("model", ""), architecture.lines(facts.architecture), strict=False)
    if facts.parameters is not None:
        yield "parameters", f"{facts.parameters:,} in {_dtypes(facts.dtypes)}"
    if facts.parameters is not None or facts.optimizer:
        yield "optimizer", _optimizer(facts.optimizer)
    if facts.drift:
        yield "drift", _drift(facts.drift)
    if facts.bytes:
        yield "on disk", ", ".join(f"{size(n)} {what}" for what, n in facts.bytes.items() if n)
    for note in facts.notes:
        yield "note", note
    for problem in facts.problems:
        yield "PROBLEM", problem


def _steps(facts: Facts) -> str:
    others = [step for step in facts.steps if step != facts.step]
    if not others:
        return str(facts.step)
    shown = [str(step) for step in others[-MOST_STEPS:]]
    more = f"{len(others) - len(shown)} earlier, " if len(others) > len(shown) else ""
    return f"{facts.step}; also there: {more}{', '.join(shown)}"


def _dtypes(dtypes: dict[str, int]) -> str:
    if len(dtypes) == 1:
        return next(iter(dtypes))
    return ", ".join(f"{name} ({number:,})" for name, number in sorted(dtypes.items()))


def _optimizer(optimizer: Optimizer | None) -> str:
    if optimizer is None:
        return "none"
    words = [optimizer.name]
    if optimizer.zero_stage is not None:
        words.append(f"ZeRO-{optimizer.zero_stage}" if optimizer.zero_stage else "without ZeRO")
    if optimizer.partitions:
        words.append(f"in {optimizer.partitions} part{'s' * (optimizer.partitions > 1)}")
    if optimizer.layout:
        words.append(optimizer.layout)
    if optimizer.updates is not None:
        words.append(f"{optimizer.updates:,} update{'s' * (optimizer.updates != 1)}")
    if optimizer.master_weights:
        words.append(f"master weights in {optimizer.master_weights}")
    if optimizer.loss_scale is not None:
        words.append(f"loss scale {optimizer.loss_scale:g}")
    return ", ".join(words)


def _drift(drift: LargestDrift) -> str:
    if not drift.differing:
        return f"none: the ranks' copies of {drift.copied} tensors are the same"
    where = drift.tensor if drift.layer is None else f"{drift.tensor} of layer {drift.layer}"
    every = drift.differing == drift.copied
    some = f"all {drift.copied}" if every else f"{drift.differing} of {drift.copied}"
    return (
        f"{some} replicated tensors differ between the ranks; the largest difference is "
        f"{drift.largest:.1e}, in {where} (typical value {drift.typical:.2g})"
    )


def _uses(uses: list[Use]) -> Iterator[str]:
    """Group the uses by what has to be done first; each command is a whole line, to be copied."""
    possible = [use for use in uses if use.possible]
    for after in dict.fromkeys(use.after for use in possible):
        group = [use for use in possible if use.after == after]
        width = max([len(use.command) for use in group if len(use.command) <= LONG], default=0)
        yield from ("", f"after {after}" if after else "what can be done")
        for use in group:
            if len(use.command) > LONG:
                yield from (f"  # {use.what}:", f"  {use.command}")
            else:
                yield f"  {use.command:<{width}}  # {use.what}"
    yield from _refusals([use for use in uses if not use.possible])


def _refusals(uses: list[Use]) -> Iterator[str]:
    if uses:
        yield from ("", "what cannot")
    for use in uses:
        text = one_line(f"{use.command}: {use.reason}")
        yield from wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ",
                        break_long_words=False, break_on_hyphens=False)  # fmt: skip


def size(nbytes: int) -> str:
    """Format a number of bytes in the unit that leaves one to three digits before the point."""
    value, units = float(nbytes), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, _ = value / 1000, units.pop(0)
    return f"{value:.3g} {units[0]}"
