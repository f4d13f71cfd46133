"""The options of the command."""

import argparse
import math
import re

from jaxneox.console.model_options import add_model_options
from jaxneox.console.parser import Parser, count
from jaxneox.serve.access import VARIABLE, host_name, is_key


def parser() -> Parser:
    p = Parser(
        "serve",
        "Serve a checkpoint as an OpenAI-compatible HTTP endpoint: /v1/completions, "
        "/v1/chat/completions, /v1/models, /health, and a page at / to try it.",
        [
            ("runs/mine", "at http://127.0.0.1:8000"),
            (
                "runs/mine --mesh tp=2 --dtype bfloat16 --slots 32",
                "on two devices, for many clients",
            ),
            ("runs/mine --adapter runs/a --adapter runs/b", "and two adapters beside it"),
        ],
    )
    p.add_argument("checkpoint", metavar="CKPT", help="a run, or one checkpoint's folder")
    net = p.add_argument_group("where to listen")
    net.add_argument("--host", default="127.0.0.1", help="an address of this machine")
    net.add_argument("--port", type=port, default=8000, metavar="N", help="0 is any free one")
    net.add_argument("--name", help="the model's name for its clients; by default the run's")
    net.add_argument("--chat-template", metavar="FILE",
        help="Jinja for conversations, in place of the checkpoint's own")  # fmt: skip
    who = p.add_argument_group("who is answered")
    who.add_argument("--allow-host", action="append", default=[], type=name, metavar="NAME",
        help="a name by which clients call this machine, besides localhost; may be repeated. At a "
        "loopback address no other is answered")  # fmt: skip
    who.add_argument("--api-key", type=key, metavar="KEY",
        help=f"what clients must send as Authorization: Bearer KEY. Others on this machine see it "
        f"in `ps`; the environment variable {VARIABLE} is better")  # fmt: skip
    limits = p.add_argument_group("how much at a time")
    limits.add_argument("--slots", type=count, default=8, metavar="N", help="answers at a time")
    limits.add_argument(
        "--queue", type=count, default=64, metavar="N", help="answers that may wait"
    )
    limits.add_argument("--caches", type=count, default=4, metavar="N",
        help="of several models so many answer at a time, each in slots of its own")  # fmt: skip
    limits.add_argument("--connections", type=count, default=512, metavar="N",
        help="clients that may be connected; for another one, the one is closed that has waited "
        "longest without sending a whole request")  # fmt: skip
    limits.add_argument("--max-tokens", type=count, metavar="N",
        help="length of an answer; by default the model's context")  # fmt: skip
    limits.add_argument("--timeout", type=seconds, default=300, metavar="S",
        help="seconds that a request may take")  # fmt: skip
    where = p.add_argument_group("where to compute")
    add_model_options(where, several=True)
    return p


def port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def name(text: str) -> str:
    bare = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text
    found = host_name(bare)
    if found is None or re.search(r"[^\]]:\d*$|\]:", bare):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a host, without a port")
    return found


def key(text: str) -> str:
    if not is_key(text):  # which is not shown
        raise argparse.ArgumentTypeError("expected visible ASCII characters without spaces")
    return text


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value
