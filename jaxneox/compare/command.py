"""`jaxneox compare RUN…`: figures of runs side by side, how they differ, and one picture."""

import argparse
import json
from pathlib import Path
from typing import Any

from jaxneox.compare.figures import RunFigures, differences, read_run, short_names
from jaxneox.console.columns import columns
from jaxneox.console.execute import entry_point
from jaxneox.console.outputs import check_output
from jaxneox.console.parser import Parser
from jaxneox.console.say import say
from jaxneox.console.units import decimals, rate
from jaxneox.errors import cut

HEADS = ("run", "steps", "tokens", "loss", "valid loss", "tokens/s")


def parser() -> Parser:
    p = Parser(
        "compare",
        "Compare runs: their last training loss (the mean of the last tenth of the steps), their "
        "least validation loss, their speed, and the settings in which they differ.",
        [
            ("runs/a runs/b", "two runs, in a table"),
            ("runs/lr-* --png losses.png", "all of a sweep, with a picture of their losses"),
        ],
    )
    p.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run")
    shown = p.add_argument_group("how to show it")
    shown.add_argument("--png", type=Path, metavar="FILE", help="draw their losses into a file")
    shown.add_argument("--json", action="store_true", help="the same figures for a program")
    return p


def run(args: argparse.Namespace) -> int:
    check_output(args.png)
    runs = [read_run(name) for name in args.runs]
    apart = differences(runs)
    if args.json:
        say(json.dumps({"runs": [figures(one) for one in runs], "differ": apart}, default=str))
    else:
        say(*columns([HEADS, *map(row, runs)], left=1))
        if apart:
            heads = ("they differ in", *short_names(runs))
            rows = [(name, *map(_short, values)) for name, values in apart.items()]
            say("", *columns([heads, *rows], left=1))
    if args.png:
        from jaxneox.compare.picture import draw

        draw(runs, args.png)
        if not args.json:
            say(f"\n{args.png}: their losses against tokens")
    return 0


def figures(one: RunFigures) -> dict[str, Any]:
    names = ("name", "steps", "tokens", "loss", "valid", "speed")
    return {name: getattr(one, name) for name in names}


def row(one: RunFigures) -> tuple[str, ...]:
    losses = ["-" if loss is None else decimals(loss, 4) for loss in (one.loss, one.valid)]
    speed = "-" if one.speed is None else rate(one.speed)
    return one.name, f"{one.steps:,}", f"{one.tokens:,}", *losses, speed


def _short(value: Any) -> str:
    return "-" if value is None else cut(str(value).replace("\n", " "))


main = entry_point(parser, run)
