"""`jaxneox convert to-neox SRC DST --mp 2 --pp 1`: write files that GPT-NeoX loads."""

import argparse
from pathlib import Path

from convert.checkpoint import Source
from convert.conversion import convert
from convert.neox.grid import NeoxGrid
from convert.neox.target import NeoxTarget
from convert.ours.source import JaxneoxSource
from jaxneox.console.execute import entry_point
from jaxneox.console.extras import require
from jaxneox.console.parser import Parser
from jaxneox.errors import UserError


def parser() -> Parser:
    p = Parser(
        "convert to-neox",
        "Convert a jaxneox checkpoint to GPT-NeoX's files for a model and pipeline parallel size. "
        "Biases that NeoX adds once on every rank are divided into shares whose sum is the bias "
        "again: exactly in float32, and in half precision for a power of two. Without --optimizer "
        "NeoX starts a new one.",
        [
            ("runs/mine OUT --mp 2", "the weights, for two model-parallel ranks"),
            ("runs/mine OUT --optimizer --dp 4", "the whole training, which then goes on in NeoX"),
        ],
    )
    p.add_argument("src", metavar="SRC", type=Path, help="a run or one of its step_N folders")
    p.add_argument("dst", metavar="DST", type=Path, help="a folder that does not exist yet")
    source = p.add_argument_group("what to write")
    source.add_argument("--step", type=int, metavar="N", help="its step; the newest by default")
    source.add_argument("--optimizer", action="store_true",
        help="Adam's moments and the counters too: NeoX goes on where the run is (float32, "
        "bfloat16)")  # fmt: skip
    layout = p.add_argument_group("for which ranks")
    layout.add_argument("--mp", type=int, default=1, metavar="N", help="NeoX's model-parallel-size")
    layout.add_argument("--pp", type=int, metavar="N",
        help="NeoX's pipe-parallel-size; 1 by default, 0 for reward models, which means "
        "--sequential")  # fmt: skip
    layout.add_argument("--sequential", action="store_true",
        help="the files of the engine without a pipeline")  # fmt: skip
    layout.add_argument("--dp", type=int, default=1, metavar="N",
        help="with --optimizer, NeoX's data-parallel ranks: how many micro-batches it sums follows "
        "from it")  # fmt: skip
    how = p.add_argument_group("how to write it")
    how.add_argument("--names", choices=("head", "2023"), default="head", help="of NeoX's tensors")
    how.add_argument("--no-verify", action="store_true", help="do not prove the result")
    return p


def run(args: argparse.Namespace) -> int:
    require("torch", "writing NeoX's files")
    grid = grid_of(args)

    def write(source: Source) -> NeoxTarget:
        sequential = args.pp is None and source.checkpoint.model.head == "reward"
        own = grid._replace(pp=0) if sequential else grid
        return NeoxTarget(source, own, args.dst, args.dp)

    return convert(
        args.dst,
        lambda: JaxneoxSource(args.src, args.step, optimizer=args.optimizer),
        write,
        verify=not args.no_verify,
    )


def grid_of(args: argparse.Namespace) -> NeoxGrid:
    if args.sequential and args.pp not in (None, 0):
        raise UserError(f"--sequential and --pp {args.pp}: files are of one of the two engines")
    pp = 0 if args.sequential else 1 if args.pp is None else args.pp
    return NeoxGrid(args.mp, pp, args.names == "2023")


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
