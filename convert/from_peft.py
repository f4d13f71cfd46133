"""`jaxneox convert from-peft FOLDER OUT`: read PEFT's adapter as an adapter run of ours."""

import argparse
from pathlib import Path

from convert.peft.importing import convert_folder
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.console.say import say


def parser() -> Parser:
    p = Parser(
        "convert from-peft",
        "Convert an adapter of PEFT, plain LoRA, to a run that holds LoRA's matrices alone and "
        "opens beside its base, and compare what both add to every weight.",
        [
            ("adapters/mine runs/lora", "beside the base that the adapter names"),
            ("adapters/mine runs/lora --base runs/base", "beside a run, or a model elsewhere"),
        ],
    )
    p.add_argument("src", metavar="FOLDER", help="with an adapter_config.json; or owner/name")
    p.add_argument("dst", metavar="OUT", type=Path, help="a folder that does not exist yet")
    how = p.add_argument_group("how to convert it")
    how.add_argument("--base", metavar="WHERE",
        help="its base: a run, a folder or owner/name, unless the adapter names it")  # fmt: skip
    return p


def run(args: argparse.Namespace) -> int:
    say(*convert_folder(args.src, args.dst, args.base))
    return 0


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
