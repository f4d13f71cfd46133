"""`jaxneox convert from-megatron SRC DST`: convert a Megatron-LM checkpoint, with a certificate."""

import argparse
from pathlib import Path

from convert.casting import CHOICES
from convert.conversion import convert
from convert.megatron.arguments_in import ReadingChoices
from convert.megatron.source import MegatronOptions, MegatronSource
from convert.ours.target import JaxneoxTarget
from jaxneox.config import load_yaml
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser


def parser() -> Parser:
    p = Parser(
        "convert from-megatron",
        "Convert a Megatron-LM checkpoint of a GPT, of any generation and format, tensor and "
        "pipeline parallel size, to a jaxneox one with the same function, and certify it.",
        [
            ("megatron_run runs/mine --tokenizer tokenizer.json", "the weights of the newest step"),
            ("megatron_run runs/mine --optimizer", "the whole training, which then goes on here"),
        ],
    )
    p.add_argument(
        "src", metavar="SRC", type=Path, help="a run, or one of its iter_NNNNNNN folders"
    )
    p.add_argument("dst", metavar="DST", type=Path, help="a folder that does not exist yet")
    source = p.add_argument_group("what to read")
    source.add_argument("--step", type=int, metavar="N", help="its step; the newest by default")
    source.add_argument("--config", nargs="+", metavar="X.yml", type=Path, default=[],
        help="NeoX's keys, instead of what arguments and tensors say")  # fmt: skip
    source.add_argument("--tokenizer", type=Path, metavar="FILE",
        help="Megatron keeps none with a checkpoint")  # fmt: skip
    source.add_argument("--optimizer", action="store_true",
        help="Adam's moments, master weights and counters too: the run goes on where Megatron's "
        "was")  # fmt: skip
    how = p.add_argument_group("how to convert it")
    how.add_argument("--dtype", choices=CHOICES, default="keep", help="type of the stored weights")
    how.add_argument("--gelu", choices=("tanh", "erf"),
        help="which form it has, whatever the arguments say")  # fmt: skip
    how.add_argument("--zero-centered-gamma", choices=("yes", "no"),
        help="whether norms multiply by 1 + weight, whatever the arguments say")  # fmt: skip
    how.add_argument("--no-verify", action="store_true", help="do not prove the result")
    return p


def run(args: argparse.Namespace) -> int:
    return convert(
        args.dst,
        lambda: MegatronSource(args.src, options_of(args)),
        JaxneoxTarget,
        verify=not args.no_verify,
    )


def options_of(args: argparse.Namespace) -> MegatronOptions:
    centred = {"yes": True, "no": False}.get(args.zero_centered_gamma)
    keys = load_yaml(args.config) if args.config else None
    reading = ReadingChoices(args.gelu, centred, keys)
    return MegatronOptions(args.step, reading, args.tokenizer, args.optimizer, args.dtype)


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
