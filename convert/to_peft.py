"""`jaxneox convert to-peft ADAPTER OUT`: write an adapter for PEFT."""

import argparse
from pathlib import Path

from convert.casting import CHOICES
from convert.peft.export import export
from convert.readers.adapter import open_adapter
from convert.writers.staging import refuse_existing
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.console.say import say


def parser() -> Parser:
    p = Parser(
        "convert to-peft",
        "Write LoRA's matrices as an adapter that PEFT loads beside the base as transformers has "
        "it, and compare what both add to every weight.",
        [
            ("runs/lora OUT", "the newest step"),
            ("runs/lora OUT --dtype bfloat16", "rounded"),
        ],
    )
    p.add_argument("src", metavar="ADAPTER", type=Path,
        help="a run that trained LoRA's matrices, or one of its step_N folders")  # fmt: skip
    p.add_argument("dst", metavar="OUT", type=Path, help="a folder that does not exist yet")
    how = p.add_argument_group("what to write")
    how.add_argument("--step", type=int, metavar="N", help="its step; the newest by default")
    how.add_argument("--dtype", choices=CHOICES, default="keep", help="type of the stored matrices")
    return p


def run(args: argparse.Namespace) -> int:
    refuse_existing(args.dst)
    say(*export(open_adapter(args.src, args.step), args.dst, args.dtype))
    return 0


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
