"""`jaxneox convert fold-mup RUN OUT`: put muP's multipliers into the weights."""

import argparse
from pathlib import Path

from convert.conversion import make
from convert.ours.folded import FoldedSource
from convert.ours.target import JaxneoxTarget
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.console.say import say


def parser() -> Parser:
    p = Parser(
        "convert fold-mup",
        "Write a run of the same function without multipliers, from one that was trained with muP: "
        "each becomes a part of a weight beside it, multiplied in float64 and rounded once to "
        "float32. Other programs have such models: to-hf and to-neox take the result.",
        [
            ("runs/mup runs/plain", "the newest step"),
            ("runs/mup runs/plain --step 1000", "an earlier one"),
        ],
    )
    p.add_argument("src", metavar="RUN", type=Path, help="a run or one of its step_N folders")
    p.add_argument("dst", metavar="OUT", type=Path, help="a folder that does not exist yet")
    what = p.add_argument_group("what to write")
    what.add_argument("--step", type=int, metavar="N", help="its step; the newest by default")
    return p


def run(args: argparse.Namespace) -> int:
    opened: list[FoldedSource] = []

    def read() -> FoldedSource:
        opened.append(FoldedSource(args.src, args.step))
        return opened[0]

    lines = make(args.dst, read, JaxneoxTarget, verify=True)
    say(opened[0].summary(), *lines)
    return 0


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
