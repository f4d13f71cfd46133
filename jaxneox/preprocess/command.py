"""The command `jaxneox preprocess`: text to `.bin/.idx`, by several processes."""

import argparse

from jaxneox.console.execute import entry_point
from jaxneox.preprocess.arguments import parser


def run(args: argparse.Namespace) -> int:
    # imported late: the worker processes, which import this module, do not need it
    from jaxneox.preprocess.run import run as preprocess

    return preprocess(args)


main = entry_point(parser, run, interrupted="interrupted; the same command goes on from here")
