"""`jaxneox coord-check CONFIG`: whether activations keep their size when the model gets wider."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from jaxneox.config import apply_set, load_yaml
from jaxneox.console.columns import columns
from jaxneox.console.execute import entry_point
from jaxneox.console.outputs import check_output
from jaxneox.console.parser import Parser, count
from jaxneox.console.say import say, tell
from jaxneox.console.waiting import waiting
from jaxneox.errors import UserError

if TYPE_CHECKING:
    from jaxneox.coord_check.growth import Growth

WIDTHS = (64, 128, 256, 512)


def parser() -> Parser:
    p = Parser(
        "coord-check",
        "Train a few steps at several widths, and measure how far each activation moves: with muP "
        "as far at every width. The configuration's hidden size is replaced, a batch of random "
        "tokens is learned in float32 at its learning rate, and nothing is saved.",
        [
            ("mup.yml", f"at widths {', '.join(map(str, WIDTHS))}"),
            ("mup.yml --widths 128 256 512 --png coords.png", "with a picture"),
            ("mup.yml --set use_mup=false", "without muP, to see what it changes"),
        ],
    )
    p.add_argument("configs", nargs="+", metavar="CONFIG.yml|NAME",
        help="YAML files to merge, or the name of a shipped one")  # fmt: skip
    what = p.add_argument_group("what to measure")
    what.add_argument("--widths", nargs="+", type=count, default=WIDTHS, metavar="N",
        help="hidden sizes")  # fmt: skip
    what.add_argument("--steps", type=count, default=4, metavar="N", help="updates at each width")
    what.add_argument("--rows", type=count, default=8, metavar="N", help="texts of the batch")
    what.add_argument("--length", type=count, default=64, metavar="N",
        help="tokens of a text, at most the model's")  # fmt: skip
    what.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="any YAML key, over the files'")  # fmt: skip
    shown = p.add_argument_group("how to show it")
    shown.add_argument("--png", type=Path, metavar="FILE", help="draw it into a file")
    shown.add_argument("--json", action="store_true", help="all figures for a program")
    return p


def run(args: argparse.Namespace) -> int:
    keys = apply_set(load_yaml(args.configs), args.set)
    widths = sorted(set(args.widths))
    if len(widths) < 2:
        raise UserError(f"--widths {widths[0]}: expected two or more, such as --widths 64 256")
    check_output(args.png)
    # jax starts below
    from jaxneox.coord_check.growth import growths
    from jaxneox.coord_check.measure import measure
    from jaxneox.parallel.compilation import use_compilation_cache

    use_compilation_cache()
    measured, notes = {}, dict[str, None]()
    for width in widths:
        with waiting(f"training at width {width}"):
            measured[width], own = measure(
                keys, width, steps=args.steps, rows=args.rows, length=args.length
            )
        notes |= dict.fromkeys(own)
    for note in notes:
        tell(f"note: {note}")
    found = growths(measured)
    say(as_json(widths, found) if args.json else "\n".join(report(widths, found)))
    if args.png:
        from jaxneox.coord_check.picture import draw

        draw(widths, found, args.png)
        tell(f"written: {args.png}")
    return 0


def report(widths: list[int], found: list["Growth"]) -> list[str]:
    """Return the lines of a table, with the verdict below it."""
    rows = [("mean absolute size", *(f"width {width}" for width in widths), "grows as width^")]
    for growth in found:
        rows.append((f"{growth.name} at the start", *map(_size, growth.first), ""))
        for step, moved in enumerate(growth.moved, 1):
            last = f"{growth.exponent:+.2f}" if step == len(growth.moved) else ""
            rows.append((f"  moved by step {step}", *map(_size, moved), last))
    return [*columns(rows, left=1), "", verdict(found)]


def verdict(found: list["Growth"]) -> str:
    """Say in one line whether all activations are flat, and which are not."""
    odd = [f"{growth.name} {growth.exponent:+.2f}" for growth in found if not growth.is_flat]
    if not odd:
        return "flat: what training changes has the same size at every width"
    shown = ", ".join(odd[:4]) + (f" and {len(odd) - 4} more" if len(odd) > 4 else "")
    return f"not flat: what training changes depends on the width ({shown})"


def as_json(widths: list[int], found: list["Growth"]) -> str:
    return json.dumps(
        {
            "widths": widths,
            "flat": all(growth.is_flat for growth in found),
            "activations": [growth._asdict() for growth in found],
        }
    )


def _size(value: float) -> str:
    return f"{value:.3g}"


main = entry_point(parser, run)
