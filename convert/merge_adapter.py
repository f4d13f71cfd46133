"""`jaxneox convert merge-adapter ADAPTER OUT`: make one model of LoRA's matrices and their base."""

import argparse
from pathlib import Path

from convert.conversion import make
from convert.ours.merged import MergedSource
from convert.ours.target import JaxneoxTarget
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.console.say import say


def parser() -> Parser:
    p = Parser(
        "convert merge-adapter",
        "Write a run of a whole model from an adapter and the model beside which it was trained: "
        "each matrix is W + s A B, computed in float64 and rounded once to float32.",
        [
            ("runs/lora runs/merged", "the newest step, with the base that it names"),
            ("runs/lora runs/merged --base models/base", "the base has moved"),
        ],
    )
    p.add_argument("src", metavar="ADAPTER", type=Path,
        help="a run that trained LoRA's matrices, or one of its step_N folders")  # fmt: skip
    p.add_argument("dst", metavar="OUT", type=Path, help="a folder that does not exist yet")
    how = p.add_argument_group("how to merge it")
    how.add_argument("--step", type=int, metavar="N", help="its step; the newest by default")
    how.add_argument("--base", metavar="WHERE",
        help="the model beside which it was trained, if it was moved since")  # fmt: skip
    return p


def run(args: argparse.Namespace) -> int:
    opened: list[MergedSource] = []

    def read() -> MergedSource:
        opened.append(MergedSource(args.src, args.step, args.base))
        return opened[0]

    lines = make(args.dst, read, JaxneoxTarget, verify=True)
    say(opened[0].summary(), *lines)
    return 0


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
