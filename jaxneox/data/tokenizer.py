"""NeoX's tokenizers by `tokenizer-type`, from local files, and those that a run has saved.

Padding the vocabulary is the configuration's affair.
"""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data.char_level import CharLevelTokenizer
from jaxneox.data.companions import (
    MORE_TEMPLATES,
    NONE,
    SAYING,
    VOCABULARIES,
    Companions,
    companions_in,
    parsed,
    read,
    token_ids,
    understood,
)
from jaxneox.data.gpt2 import gpt2_bpe, hf_gpt2
from jaxneox.data.huggingface import HuggingFaceTokenizer, tokenizer_json
from jaxneox.data.library import faults
from jaxneox.data.sentencepieces import SentencePieceTokenizer
from jaxneox.data.tiktokens import TiktokenTokenizer
from jaxneox.data.tokenizer_base import (
    DESCRIPTION,
    EOD,
    Tokenizer,
    given,
    vocab_file,
)
from jaxneox.errors import UserError

__all__ = [
    "BUILDERS",
    "EOD",
    "CharLevelTokenizer",
    "HuggingFaceTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "build_tokenizer",
    "companions_of",
    "load_tokenizer",
    "open_tokenizer",
]

STANDARD = ("tokenizer.json", "vocab.json", "tokenizer.model")
"""The names that Hugging Face gives to a tokenizer's file: what is beside one belongs to it."""


def build_tokenizer(cfg: TokenizerConfig, companions: Companions | None = None) -> Tokenizer:
    """Make the tokenizer of `tokenizer-type`, `vocab-file`, `merge-file` and `eod-token`.

    A sentencepiece model puts no token before a text here, as in NeoX, whatever lies beside it.

    Args:
        cfg: the keys.
        companions: what goes with it; by default what lies beside a file that is called as Hugging
            Face calls it, or what a run saved with it.

    Raises:
        UserError: the kind is unknown, a file is missing or unreadable, or `eod-token` is no token.
    """
    if companions is not None:
        return _made(cfg, companions, None)
    saved = _saved_beside(cfg)
    return _made(cfg, *(saved or (replace(companions_of(cfg), add_bos=False), None)))


def load_tokenizer(folder: Path, eod_token: str | None = None) -> Tokenizer:
    """Load the tokenizer that `Tokenizer.save` left in a folder.

    Args:
        folder: `tokenizer/` of a run.
        eod_token: another token to end documents with, by its text.

    Raises:
        UserError: the folder has none, or it cannot be read.
    """
    return _made(saved_config(folder, eod_token), *_kept(folder, _described(folder)))


def saved_config(folder: Path, eod_token: str | None = None) -> TokenizerConfig:
    """Return the settings that make the tokenizer in a folder, see `load_tokenizer`."""
    description = _described(folder)
    files = [str(folder / name) for name in description["files"]]
    vocab, merges = [*files, None, None][:2]
    return TokenizerConfig(description["tokenizer_type"], vocab, merges, eod_token=eod_token)


def _made(cfg: TokenizerConfig, companions: Companions, saved: int | None) -> Tokenizer:
    """Make a tokenizer; `saved` is the end of document that a run has settled on."""
    builders = {kind.lower(): builder for kind, builder in BUILDERS.items()}
    if cfg.kind.lower() not in builders:
        near = difflib.get_close_matches(cfg.kind, BUILDERS, n=1, cutoff=0)[0]
        raise UserError(
            f"tokenizer-type: {cfg.kind!r} is unknown, did you mean {near}? "
            f"There are {', '.join(BUILDERS)}"
        )
    with faults(f"{cfg.vocab_file}: not what a {cfg.kind} is made from"):
        tokenizer = builders[cfg.kind.lower()](cfg, companions)
    tokenizer.origin = cfg.vocab_file or ""
    tokenizer.settle(companions, cfg.eod_token, saved)
    return tokenizer


def open_tokenizer(cfg: TokenizerConfig, kept: Iterable[Path]) -> Tokenizer:
    """Open the tokenizer that the keys name, else the first that one of these runs has saved.

    A run that was saved before documents could end with anything but <|endoftext|> keeps the end
    that it was trained with.

    Args:
        cfg: the keys.
        kept: folders of runs, the one that is continued first.

    Raises:
        UserError: there is none anywhere, or it cannot be read.
    """
    folders = [run / "tokenizer" for run in kept if (run / "tokenizer" / DESCRIPTION).is_file()]
    try:
        built = build_tokenizer(cfg)
    except UserError:
        if not folders:
            raise
        return load_tokenizer(folders[0], cfg.eod_token)
    if cfg.eod_token is None and folders and "eod" not in _described(folders[0]):
        older = load_tokenizer(folders[0])
        if older.name == built.name and [*older.files.values()] == [*built.files.values()]:
            return older
    return built


def _described(folder: Path) -> dict[str, Any]:
    """Read jaxneox_tokenizer.json; its names are those of files in the folder, and no others."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the tokenizer that a run saves")
    description = parsed(path, read(path))
    kind, files, others = (description.get(n) for n in ("tokenizer_type", "files", "companions"))
    eod = description.get("eod")
    if (
        isinstance(kind, str)
        and _are_names(files, Path.is_file, folder)
        and (others is None or _are_names(others, lambda p: _is_companion(p, folder), folder))
        and (eod is None or type(eod) is int)
    ):
        return description
    raise UserError(f"{path}: does not describe a tokenizer in its folder; copy the folder again")


def _are_names(names: Any, good: Callable[[Path], bool], folder: Path) -> bool:
    return isinstance(names, list) and all(
        isinstance(name, str) and ".." not in Path(name).parts and good(folder / name)
        for name in names
    )


def _is_companion(path: Path, folder: Path) -> bool:
    known = path.name in (*SAYING, *VOCABULARIES) or path.parent.name == MORE_TEMPLATES
    return known and path.is_relative_to(folder) and path.is_file()


def _kept(folder: Path, description: dict[str, Any]) -> tuple[Companions, int | None]:
    """Read what a run saved with its tokenizer, and the end of document that it settled on."""
    files = {name: read(folder / name) for name in description.get("companions", ())}
    config = description.get("config")
    if config is not None:
        config = token_ids(folder / DESCRIPTION, config if isinstance(config, dict) else {})
    kept = understood(folder, files, config)
    return replace(kept, add_bos=description.get("add_bos") is True), description.get("eod")


def companions_of(cfg: TokenizerConfig) -> Companions:
    """Read what is beside the file that the keys name, if it has Hugging Face's name for it."""
    folder, name = _file_of(cfg)
    if name not in STANDARD or not (folder / name).is_file():
        return NONE
    own = ("vocab.json", "merges.txt") if name == "vocab.json" else (name,)
    return companions_in(folder, without=own)


def _saved_beside(cfg: TokenizerConfig) -> tuple[Companions, int | None] | None:
    """Read what a run saved with the file that the keys name; None if it is no run's."""
    folder, name = _file_of(cfg)
    if not name or not (folder / DESCRIPTION).is_file():
        return None
    description = _described(folder)
    return _kept(folder, description) if name in description["files"] else None


def _file_of(cfg: TokenizerConfig) -> tuple[Path, str]:
    """Return the folder and the name of `vocab-file`, which may be the folder itself."""
    if cfg.vocab_file is None:
        return Path(), ""
    path = Path(cfg.vocab_file)
    return (path, "vocab.json") if path.is_dir() else (path.parent, path.name)


def _sentencepiece(cfg: TokenizerConfig, companions: Companions) -> Tokenizer:
    path = vocab_file(cfg)
    return SentencePieceTokenizer(path, path.read_bytes(), companions)


BUILDERS: dict[str, Callable[[TokenizerConfig, Companions], Tokenizer]] = {
    "HFTokenizer": tokenizer_json,
    "GPT2BPETokenizer": gpt2_bpe,
    "HFGPT2Tokenizer": hf_gpt2,
    "CharLevelTokenizer": lambda cfg, companions: CharLevelTokenizer(),
    "SPMTokenizer": _sentencepiece,
    "TiktokenTokenizer": lambda cfg, companions: TiktokenTokenizer(given(cfg)),
}
