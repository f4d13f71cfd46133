"""`jaxneox convert to-megatron SRC DST --tp 2 --pp 1`: write files that Megatron-LM loads."""

import argparse
from pathlib import Path

from convert.casting import CHOICES
from convert.conversion import convert
from convert.megatron.grid import MegatronGrid
from convert.megatron.target import IMPLEMENTATIONS, MegatronTarget
from convert.ours.source import JaxneoxSource
from jaxneox.console.execute import entry_point
from jaxneox.console.extras import require
from jaxneox.console.parser import Parser


def parser() -> Parser:
    p = Parser(
        "convert to-megatron",
        "Convert a jaxneox checkpoint to Megatron-LM's files for a tensor and pipeline parallel "
        "size. Weights alone: Megatron-LM starts a new optimizer.",
        [
            ("runs/mine OUT --tp 2", "torch_dist, which is read with any other sizes as well"),
            ("runs/mine OUT --format torch --tp 2 --pp 2", "a file for each of four ranks"),
        ],
    )
    p.add_argument("src", metavar="SRC", type=Path, help="a run or one of its step_N folders")
    p.add_argument("dst", metavar="DST", type=Path, help="a folder that does not exist yet")
    layout = p.add_argument_group("for which ranks")
    layout.add_argument("--tp", type=int, default=1, metavar="N",
        help="Megatron's tensor-model-parallel-size")  # fmt: skip
    layout.add_argument("--pp", type=int, default=1, metavar="N",
        help="Megatron's pipeline-model-parallel-size")  # fmt: skip
    layout.add_argument("--virtual", type=int, default=1, metavar="N",
        help="virtual stages of each stage")  # fmt: skip
    how = p.add_argument_group("what to write")
    how.add_argument("--step", type=int, metavar="N", help="its step; the newest by default")
    how.add_argument("--format", choices=("torch", "torch_dist"), default="torch_dist",
        help="torch_dist is read with any other sizes as well")  # fmt: skip
    how.add_argument("--transformer-impl", choices=IMPLEMENTATIONS, default="local",
        help="whose names the torch format has; torch_dist has the same for both")  # fmt: skip
    how.add_argument("--dtype", choices=CHOICES, default="keep", help="type of the stored weights")
    how.add_argument("--no-verify", action="store_true", help="do not prove the result")
    return p


def run(args: argparse.Namespace) -> int:
    require("torch", "writing Megatron-LM's files")
    grid = MegatronGrid(args.tp, args.pp, args.virtual, args.format)
    return convert(
        args.dst,
        lambda: JaxneoxSource(args.src, args.step),
        lambda source: MegatronTarget(source, grid, args.transformer_impl, args.dtype),
        verify=not args.no_verify,
    )


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
