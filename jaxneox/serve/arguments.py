"""The options of the command."""

import argparse
import math

from jaxneox.data.commands.console import Parser


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m jaxneox.serve",
        description="An OpenAI-compatible HTTP endpoint of a checkpoint: /v1/completions, "
        "/v1/models, /health, and a page at / to try it.",
    )
    p.add_argument("checkpoint", metavar="CKPT", help="a run, or one checkpoint's folder")
    p.add_argument("--host", default="127.0.0.1", help="127.0.0.1: this machine alone")
    p.add_argument("--port", type=port, default=8000, metavar="N", help="8000; 0: any free one")
    p.add_argument("--name", help="of the model, for its clients: the folder's unless given")
    p.add_argument("--mesh", metavar="tp=2", help="one device unless given")
    p.add_argument("--step", type=int, metavar="N", help="of a run; its newest unless given")
    p.add_argument("--slots", type=count, default=8, metavar="N", help="answers at a time: 8")
    p.add_argument("--queue", type=count, default=64, metavar="N", help="answers waiting: 64")
    p.add_argument("--max-tokens", type=count, metavar="N", help="of an answer: the context")
    p.add_argument("--timeout", type=seconds, default=300, metavar="S", help="of a request: 300")
    p.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="float32"
    )
    return p


def count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value
