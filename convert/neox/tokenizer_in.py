"""The tokenizer of a NeoX run, if its file is at hand."""

from dataclasses import replace
from pathlib import Path

from convert.hf.tokenizer import tokenizer_at
from convert.tokenizers import NONE, notes_of
from jaxneox.config.schema import TokenizerConfig
from jaxneox.data import Tokenizer, build_tokenizer
from jaxneox.data.companions import MODEL, SAYING, VOCABULARIES
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


def looked_for(cfg: TokenizerConfig, beside: Path) -> list[Path]:
    """List the files by which the outcome of `find_tokenizer` may change, there or not.

    Args:
        cfg: the YAML's keys.
        beside: the checkpoint's folder.
    """
    files = []
    for own in _places(cfg, beside):
        files += [*own, *(own[0].parent / name for name in (*SAYING, *VOCABULARIES, MODEL))]
    return list(dict.fromkeys(files))


def _places(cfg: TokenizerConfig, beside: Path) -> list[list[Path]]:
    """Return where the YAML's files may lie, in order: the vocabulary, and the merges if any."""
    if cfg.vocab_file is None:
        return []
    names = [Path(name).name for name in (cfg.vocab_file, cfg.merge_file) if name]
    folders = (Path(cfg.vocab_file).parent, beside, beside.parent)
    return [[folder / name for name in names] for folder in folders]


def _candidates(cfg: TokenizerConfig, beside: Path) -> list[TokenizerConfig]:
    for vocab, *merges in _places(cfg, beside):
        if vocab.is_file():
            merge_file = str(merges[0]) if merges else None
            return [replace(cfg, vocab_file=str(vocab), merge_file=merge_file)]
    return []
