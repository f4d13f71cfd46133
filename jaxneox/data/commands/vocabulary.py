"""The tokenizer that a command is given: by NeoX's flags, or by a YAML."""

import argparse

from jaxneox.config import Settings, load_yaml
from jaxneox.config.schema import TokenizerConfig
from jaxneox.data.tokenizer import Tokenizer, build_tokenizer
from jaxneox.errors import UserError


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tokenizer", "by its own flags, or as a run has it")
    add = group.add_argument
    add("--tokenizer-type", metavar="KIND", help="HFTokenizer where there is a vocab-file")
    add("--vocab-file", metavar="FILE", help="tokenizer.json, vocab.json or a model")
    add("--merge-file", metavar="FILE", help="merges.txt of GPT-2's kinds")
    add("--eod-token", metavar="TEXT", help="ends documents, as preprocess was told")
    add("--config", nargs="+", metavar="X.yml", help="the YAMLs of a run")


def tokenizer_from(args: argparse.Namespace) -> Tokenizer | None:
    """Build the tokenizer that the flags or YAMLs name; None if neither is given."""
    flags = args.tokenizer_type or args.vocab_file or args.merge_file or args.eod_token
    if args.config and flags:
        raise UserError("--config and the tokenizer's own flags: give one of the two")
    if args.config:
        return build_tokenizer(Settings(load_yaml(args.config)).tokenizer)
    if flags:
        kind = args.tokenizer_type or "HFTokenizer"
        files = (args.vocab_file, args.merge_file)
        return build_tokenizer(TokenizerConfig(kind, *files, eod_token=args.eod_token))
    return None
