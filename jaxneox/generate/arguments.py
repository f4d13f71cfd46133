"""What the command is asked: its options over a YAML over what the checkpoint's run had."""

import argparse
from collections.abc import Mapping
from typing import Any

from jaxneox.config import apply_set, generation_of, load_yaml
from jaxneox.config.schema import GenerationConfig
from jaxneox.data.commands.console import Parser

KEYS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "maximum_tokens",
    "prompt_end": "prompt_end",
    "num_samples": "num_samples",
    "recompute": "recompute",
}
"""Options that are NeoX's keys."""


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m jaxneox.generate",
        description="Text from a checkpoint. Without --prompt, --input and a text_gen_type: "
        "interactive on a terminal, else prompts from the standard input.",
    )
    p.add_argument("checkpoint", metavar="CKPT", help="a run, or one checkpoint's folder")
    source = p.add_mutually_exclusive_group()
    source.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated")
    source.add_argument("--input", metavar="FILE", help="prompts, each up to --prompt-end")
    source.add_argument("--interactive", action="store_true", help="prompts from the keyboard")
    p.add_argument("--output", metavar="FILE", help="answers as JSON lines, as NeoX writes them")
    p.add_argument("--config", nargs="+", metavar="X.yml", help="NeoX's text generation keys")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one of them")
    p.add_argument("--temperature", type=float, metavar="T", help="0, the default: greedy")
    p.add_argument("--top-p", type=float, metavar="P", help="of the most likely tokens only")
    p.add_argument("--top-k", type=int, metavar="K", help="of the K most likely tokens only")
    p.add_argument("--max-tokens", "--maximum-tokens", type=int, metavar="N", help="64")
    p.add_argument("--prompt-end", metavar="TEXT", help="what ends a prompt: a line's end")
    p.add_argument("--num-samples", type=int, metavar="N", help="of each prompt, or of none")
    p.add_argument("--recompute", action="store_true", default=None, help="without a cache")
    p.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends an answer")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of the first answer")
    p.add_argument("--rows", type=int, default=8, metavar="N", help="answers at a time")
    p.add_argument("--mesh", metavar="tp=2", help="one device unless given")
    p.add_argument("--step", type=int, metavar="N", help="of a run; its newest unless given")
    p.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="float32"
    )
    return p


def settings_of(args: argparse.Namespace, saved: Mapping[str, Any]) -> GenerationConfig:
    keys = dict(saved) | (load_yaml(args.config) if args.config else {})
    keys = apply_set(keys, args.set)
    given = {key: getattr(args, name) for name, key in KEYS.items()}
    return generation_of(keys | {key: value for key, value in given.items() if value is not None})
