"""The tokenizer of a NeoX run, if its file is at hand."""

from dataclasses import replace
from pathlib import Path

from convert.hf.tokenizer import tokenizer_at
from convert.tokenizers import NONE, notes_of
from jaxneox.config.schema import TokenizerConfig
from jaxneox.data import Tokenizer, build_tokenizer
from jaxneox.errors import UserError


def find_tokenizer(
    cfg: TokenizerConfig, given: Path | None, beside: Path
) -> tuple[Tokenizer | None, list[str]]:
    """Find the tokenizer of a NeoX run.

    Args:
        cfg: the YAML's keys.
        given: `--tokenizer FILE`, which takes precedence; its kind is determined from the file.
        beside: the checkpoint's folder, where the YAML's file may lie.

    Returns:
        The tokenizer, or None, and notes about it, one line each.

    Raises:
        UserError: a file is there and is no such tokenizer.
    """
    if given is not None:
        tokenizer = tokenizer_at(given, cfg)
        return tokenizer, notes_of(tokenizer)
    for candidate in _candidates(cfg, beside):
        tokenizer = build_tokenizer(candidate)
        return tokenizer, notes_of(tokenizer)
    try:
        return build_tokenizer(cfg), []  # a kind that needs no file
    except UserError:
        if cfg.vocab_file is None:
            return None, [f"the YAML names no file of a tokenizer (vocab-file): {NONE}"]
        return None, [f"the tokenizer's file {cfg.vocab_file} is not here: {NONE}"]


def _candidates(cfg: TokenizerConfig, beside: Path) -> list[TokenizerConfig]:
    if cfg.vocab_file is None:
        return []
    named = Path(cfg.vocab_file)
    for folder in (named.parent, beside, beside.parent):
        vocab = folder / named.name
        if vocab.is_file():
            merges = folder / Path(cfg.merge_file).name if cfg.merge_file else None
            return [replace(cfg, vocab_file=str(vocab), merge_file=str(merges) if merges else None)]
    return []
