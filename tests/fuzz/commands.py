"""Commands for what has no small one: `jaxneox data`, and two readers of `.npz`."""

import argparse
from typing import NoReturn

from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser


def windows(args: argparse.Namespace) -> int:
    from jaxneox.config import Settings
    from jaxneox.evaluate.corpus import read
    from tests.convert.hf_models import COMMON

    read(args.file, Settings(COMMON).model(vocab_size=None), None, None, None)
    return 0


def batches(args: argparse.Namespace) -> int:
    from jaxneox.data.tokens_file import TokensFile

    loader = TokensFile(args.file, global_batch=2, seq_length=11, vocab_size=8)
    loader.read(0)
    return 0


def parser() -> Parser:
    p = Parser("fuzz", "read a file")
    p.add_argument("reader", choices=["windows", "batches"])
    p.add_argument("file")
    return p


def main(argv: list[str]) -> NoReturn:
    if argv[0] == "data":
        from jaxneox.cli import main as command

        command(argv)
    entry_point(parser, lambda args: globals()[args.reader](args))(argv)
