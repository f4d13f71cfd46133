"""The tokenizer that goes with a checkpoint, where it is at hand."""

from dataclasses import replace
from pathlib import Path

from jaxneox.config.schema import TokenizerConfig
from jaxneox.console.progress import warn
from jaxneox.data import Tokenizer, build_tokenizer
from jaxneox.errors import UserError


def find_tokenizer(cfg: TokenizerConfig, given: Path | None, beside: Path) -> Tokenizer | None:
    """`given`, else the YAML's file, there or beside the checkpoint; None, with a warning, if none.

    Raises UserError for a file that is there and is no such tokenizer.
    """
    if given is not None:
        return build_tokenizer(replace(cfg, vocab_file=str(given)))
    for candidate in _candidates(cfg, beside):
        return build_tokenizer(candidate)
    try:
        return build_tokenizer(cfg)  # a kind that needs no file
    except UserError:
        warn(
            [
                f"the tokenizer's file {cfg.vocab_file} is not here: the checkpoint gets none; "
                "give it with --tokenizer FILE"
            ]
        )
        return None


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
