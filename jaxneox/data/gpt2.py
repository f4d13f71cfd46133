"""GPT-2's tokenizer from its two files, vocab.json and merges.txt."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data.companions import Added, Companions
from jaxneox.data.huggingface import HuggingFaceTokenizer, register
from jaxneox.data.library import faults
from jaxneox.data.tokenizer_base import EOD, PADDING, Tokenizer, existing, vocab_file
from jaxneox.errors import UserError


def gpt2_bpe(cfg: TokenizerConfig, companions: Companions) -> Tokenizer:
    vocab = vocab_file(cfg)
    if cfg.merge_file is None:
        raise UserError("merge-file: missing, GPT2BPETokenizer needs the path of its merges.txt")
    merges = existing(cfg.merge_file, "merge-file")
    return _gpt2("GPT2BPETokenizer", vocab, merges, companions)


def hf_gpt2(cfg: TokenizerConfig, companions: Companions) -> Tokenizer:
    """Open a GPT2BPETokenizer with one more token, `<|padding|>`; `vocab-file` may be a folder."""
    given = cfg.vocab_file
    if given is not None and Path(given).is_dir():
        given = str(Path(given) / "vocab.json")
    if given is None or (not Path(given).exists() and "/" not in given):
        raise UserError(
            f"vocab-file: {given!r}, HFGPT2Tokenizer needs a folder with vocab.json and "
            "merges.txt here (nothing is downloaded)"
        )
    vocab = existing(given, "vocab-file")
    merges = existing(cfg.merge_file or str(vocab.with_name("merges.txt")), "merge-file")
    return _gpt2("HFGPT2Tokenizer", vocab, merges, companions, PADDING)


def _gpt2(
    name: str, vocab: Path, merges: Path, companions: Companions, *more: str
) -> HuggingFaceTokenizer:
    """Make GPT-2's tokenizer: bytes as printable characters, merged by rank, no leading space."""
    with faults(f"{vocab}, {merges}: no vocab.json and merges.txt"):
        ids, ranks = models.BPE.read_file(str(vocab), str(merges))
        _check_places(vocab, ids, companions.added)
        # The library numbers added tokens itself, but for those that the vocabulary has.
        backend = tokenizers.Tokenizer(
            models.BPE(ids | {token.content: token.id for token in companions.added}, ranks)
        )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if backend.token_to_id(EOD) is not None:
        backend.add_special_tokens([EOD])
    added, notes = register(backend, companions)
    if more:
        backend.add_special_tokens(list(more))
    files = {path.name: path.read_bytes() for path in (vocab, merges)}
    tokenizer = HuggingFaceTokenizer(name, backend, files, added)
    tokenizer.notes += tuple(notes)
    return tokenizer


def _check_places(vocab: Path, ids: Mapping[str, int], added: Sequence[Added]) -> None:
    """Check that no added token has an id that is another's, and that none has another id.

    Raises:
        UserError: names the token.
    """
    owners = {i: text for text, i in ids.items()}
    for token in added:
        there, owner = ids.get(token.content, token.id), owners.get(token.id, token.content)
        if there != token.id or owner != token.content:
            what = f"has as {there}" if there != token.id else f"gives to {owner!r}"
            raise UserError(
                f"{vocab.parent}: its added tokens give {token.content!r} the id {token.id}, which "
                f"{vocab.name} {what}; correct added_tokens.json or tokenizer_config.json"
            )
        owners[token.id] = token.content
