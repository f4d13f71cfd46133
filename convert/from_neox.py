"""`jaxneox convert from-neox SRC DST`: convert a GPT-NeoX checkpoint, with a certificate."""

import argparse
from pathlib import Path

from convert.casting import CHOICES
from convert.conversion import convert
from convert.neox.plan import MergeChoices
from convert.neox.source import NeoxOptions, NeoxSource
from convert.ours.target import JaxneoxTarget
from convert.readers.hub import folder_of
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.errors import UserError

HUB_FILES = ("*.pt", "*.yml", "*.yaml", "latest", "*.json")


def parser() -> Parser:
    p = Parser(
        "convert from-neox",
        "Convert a GPT-NeoX checkpoint, of any model and pipeline parallel size, to a jaxneox one "
        "that computes what NeoX computed, and certify it.",
        [
            ("neox_run runs/mine", "the weights, of the newest step"),
            ("neox_run runs/mine --optimizer", "the whole training, which then goes on here"),
        ],
    )
    p.add_argument("src", metavar="SRC",
        help="a run, a global_stepN folder, or hf://owner/name[@revision]")  # fmt: skip
    p.add_argument("dst", metavar="DST", type=Path, help="a folder that does not exist yet")
    source = p.add_argument_group("what to read")
    source.add_argument("--step", type=int, metavar="N", help="its step; `latest` by default")
    source.add_argument("--config", nargs="+", metavar="X.yml", type=Path,
        help="YAML files instead of the checkpoint's own")  # fmt: skip
    source.add_argument("--tokenizer", type=Path, metavar="FILE",
        help="instead of the YAML's vocab-file")  # fmt: skip
    source.add_argument("--optimizer", action="store_true",
        help="Adam's moments and the counters too: the run goes on where NeoX's was; drifted norms "
        "are then averaged")  # fmt: skip
    how = p.add_argument_group("how to convert it")
    how.add_argument("--dtype", choices=CHOICES, default="keep",
        help="type of the stored weights. keep: the source's, but float32 for what that cannot "
        "hold")  # fmt: skip
    how.add_argument("--norms", choices=("fold", "mean", "first"), default="fold",
        help="drifted copies of norms. fold: kept exactly; mean, first: NeoX's own merges, for "
        "comparison")  # fmt: skip
    how.add_argument("--biases", choices=("auto", "sum", "once"), default="auto",
        help="output biases. auto: summed for a parallel residual, once for a sequential one; "
        "sum, once: always so, for comparison")  # fmt: skip
    how.add_argument("--drift", choices=("refuse", "rank0"), default="refuse",
        help="ranks that drifted apart around experts. refuse: no single model has their function; "
        "rank0: the first rank's copies, at the cost that the certificate states")  # fmt: skip
    how.add_argument("--clean-biases", action="store_true",
        help="with --optimizer: a merged output bias moves one step at a time, not as the ranks' "
        "copies together")  # fmt: skip
    proof = p.add_argument_group("how to prove it")
    proof.add_argument("--no-verify", action="store_true", help="do not prove the result")
    proof.add_argument("--older-merges", action="store_true",
        help="the certificate also says what NeoX's own merges of the same ranks would have cost, "
        "each followed in float64 as well")  # fmt: skip
    return p


def run(args: argparse.Namespace) -> int:
    if args.older_merges and args.no_verify:
        raise UserError("--older-merges: they are a part of the proof; leave out --no-verify")
    merge = MergeChoices(args.norms, args.biases, args.dtype, args.drift)
    options = NeoxOptions(
        args.step, args.config, args.tokenizer, merge, args.optimizer, args.clean_biases
    )
    return convert(
        args.dst,
        lambda: NeoxSource(folder_of(args.src, HUB_FILES), options),
        JaxneoxTarget,
        verify=not args.no_verify,
        older_merges=args.older_merges,
    )


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
