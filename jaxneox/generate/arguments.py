"""The options of the command, over a YAML, over what the checkpoint's run had."""

import argparse
from collections.abc import Mapping
from typing import Any

from jaxneox.config import Settings, apply_set, load_yaml
from jaxneox.config.schema import GenerationConfig
from jaxneox.console.model_options import add_model_options
from jaxneox.console.parser import Parser, whole_number

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


def parser() -> Parser:
    p = Parser(
        "generate",
        "Generate text from a checkpoint. Without --prompt, --input and a text_gen_type it is "
        "interactive on a terminal, and else reads prompts from the standard input.",
        [
            ('runs/mine --prompt "Once upon a time"', "one answer, greedily"),
            ("runs/mine --input prompts.txt --output answers.jsonl --temperature 0.8", "many"),
        ],
    )
    p.add_argument("checkpoint", metavar="CKPT", help="a run, or one checkpoint's folder")
    asked = p.add_argument_group("prompts and answers")
    source = asked.add_mutually_exclusive_group()
    source.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated")
    source.add_argument("--input", metavar="FILE", help="prompts, each up to --prompt-end")
    source.add_argument("--interactive", action="store_true", help="prompts from the keyboard")
    asked.add_argument("--prompt-end", metavar="TEXT",
        help="what ends a prompt in a file; a line's end by default")  # fmt: skip
    asked.add_argument(
        "--output", metavar="FILE", help="answers as JSON lines, as NeoX writes them"
    )
    asked.add_argument("--num-samples", type=int, metavar="N",
        help="answers to each prompt; without prompts, so many texts from nothing")  # fmt: skip
    how = p.add_argument_group("how to sample")
    how.add_argument("--max-tokens", "--maximum-tokens", type=int, metavar="N",
        help="length of an answer; 64 by default")  # fmt: skip
    how.add_argument(
        "--temperature", type=float, metavar="T", help="0, which is greedy, by default"
    )
    how.add_argument(
        "--top-p", type=float, metavar="P", help="only the likeliest tokens that add up to P"
    )
    how.add_argument("--top-k", type=int, metavar="K", help="only the K most likely tokens")
    how.add_argument("--stop", action="append", default=[], metavar="TEXT",
        help="text that ends an answer; may be repeated")  # fmt: skip
    how.add_argument("--stop-token-id", action="append", default=[], type=whole_number, metavar="N",
        help="a token that ends an answer; may be repeated")  # fmt: skip
    how.add_argument("--min-tokens", type=whole_number, default=0, metavar="N",
        help="least length of an answer: before, nothing ends it")  # fmt: skip
    how.add_argument("--ignore-eos", action="store_true", help="go on after the end of a document")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the first answer")
    keys = p.add_argument_group("NeoX's text generation keys")
    keys.add_argument("--config", nargs="+", metavar="X.yml", help="YAML files with them")
    keys.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one of them")
    where = p.add_argument_group("where to compute")
    add_model_options(where)
    where.add_argument("--rows", type=int, default=8, metavar="N", help="answers at a time")
    where.add_argument("--recompute", action="store_true", default=None,
        help="recompute every token, without a cache: slow")  # fmt: skip
    return p


def conditions_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what ends an answer, as arguments of `LoadedModel.generate`."""
    names = {"stop": "stop", "stop_token_id": "stop_token_ids"}
    names |= {name: name for name in ("ignore_eos", "min_tokens")}
    return {name: getattr(args, option) for option, name in names.items()}


def settings_of(args: argparse.Namespace, saved: Mapping[str, Any]) -> GenerationConfig:
    keys = dict(saved) | (load_yaml(args.config) if args.config else {})
    keys = apply_set(keys, args.set)
    given = {key: getattr(args, name) for name, key in KEYS.items()}
    keys |= {key: value for key, value in given.items() if value is not None}
    return Settings(keys).generation
