"""`jaxneox convert to-hf SRC DST`: convert a jaxneox checkpoint to a transformers model."""

import argparse
from pathlib import Path

from convert.casting import CHOICES
from convert.conversion import convert
from convert.hf.target import HfTarget
from convert.ours.source import JaxneoxSource
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser


def parser() -> Parser:
    p = Parser(
        "convert to-hf",
        "Write a jaxneox checkpoint as safetensors that transformers loads: as GPT-NeoX, Llama, "
        "Mistral, Qwen2, Qwen3 or GPT-2, whichever has exactly its function.",
        [
            ("runs/mine OUT", "the newest step"),
            ("runs/mine OUT --dtype bfloat16 --vocab trim", "rounded, without padded rows"),
        ],
    )
    p.add_argument("src", metavar="SRC", type=Path, help="a run or one of its step_N folders")
    p.add_argument("dst", metavar="DST", type=Path, help="a folder that does not exist yet")
    how = p.add_argument_group("what to write")
    how.add_argument("--step", type=int, metavar="N", help="its step; the newest by default")
    how.add_argument("--dtype", choices=CHOICES, default="keep", help="type of the stored weights")
    how.add_argument("--vocab", choices=("keep", "trim"), default="keep",
        help="trim: without the padded rows, which the softmax then lacks")  # fmt: skip
    how.add_argument("--copy-shared-norm", action="store_true",
        help="write the one norm of a gpt_j_tied model twice: the same function")  # fmt: skip
    how.add_argument("--no-verify", action="store_true", help="do not prove the result")
    return p


def run(args: argparse.Namespace) -> int:
    return convert(
        args.dst,
        lambda: JaxneoxSource(args.src, args.step),
        lambda source: HfTarget(
            source,
            dtype=args.dtype,
            trim=args.vocab == "trim",
            copy_shared_norm=args.copy_shared_norm,
        ),
        verify=not args.no_verify,
    )


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
