"""`jaxneox convert from-hf SRC DST`: convert a transformers model to a jaxneox checkpoint."""

import argparse
from pathlib import Path

from convert.casting import CHOICES
from convert.conversion import convert
from convert.hf.download import folder_of_model
from convert.hf.families import FAMILIES
from convert.hf.source import HfSource
from convert.ours.target import JaxneoxTarget
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser, count


def parser() -> Parser:
    p = Parser(
        "convert from-hf",
        "Convert a model of transformers to a jaxneox checkpoint with the same function, and "
        f"certify it. Its architecture is one of {', '.join(f.architecture for f in FAMILIES)}.",
        [
            ("EleutherAI/pythia-70m runs/70m", "a model of the Hugging Face hub"),
            ("models/llama runs/llama --dtype bfloat16", "a folder here, its weights rounded"),
        ],
    )
    p.add_argument("src", metavar="SRC",
        help="a folder, owner/name or hf://owner/name[@revision]")  # fmt: skip
    p.add_argument("dst", metavar="DST", type=Path, help="a folder that does not exist yet")
    how = p.add_argument_group("how to convert it")
    how.add_argument("--tokenizer", type=Path, metavar="FILE",
        help="instead of the one beside the model")  # fmt: skip
    how.add_argument("--dtype", choices=CHOICES, default="keep", help="type of the stored weights")
    how.add_argument("--vocab-multiple", type=count, default=1, metavar="N",
        help="add rows of zeros to the vocabulary until N divides it")  # fmt: skip
    how.add_argument("--no-verify", action="store_true", help="do not prove the result")
    return p


def run(args: argparse.Namespace) -> int:
    return convert(
        args.dst,
        lambda: HfSource(
            folder_of_model(args.src),
            dtype=args.dtype,
            tokenizer=args.tokenizer,
            vocab_multiple=args.vocab_multiple,
        ),
        JaxneoxTarget,
        verify=not args.no_verify,
    )


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
