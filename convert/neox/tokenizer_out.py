"""A tokenizer in files that GPT-NeoX and Megatron-LM open, and notes on what they ignore."""

from jaxneox.data import Tokenizer
from jaxneox.data.tokenizer import EOD, HuggingFaceTokenizer, SentencePieceTokenizer

FILE = "tokenizer.json"


def for_neox(tokenizer: Tokenizer) -> tuple[Tokenizer, list[str]]:
    """Return the same tokenizer in files that NeoX reads without any companions.

    NeoX applies the truncation and padding that a tokenizer.json was saved with, and knows only the
    added tokens in that file. If either would change the tokens, the file is written anew.

    Returns:
        The tokenizer to write, and a line for each thing that NeoX will not know.
    """
    written, notes = tokenizer, []
    if isinstance(tokenizer, HuggingFaceTokenizer) and is_written_anew(tokenizer):
        name = next(iter(tokenizer.files)) if tokenizer.name == "HFTokenizer" else FILE
        written = HuggingFaceTokenizer("HFTokenizer", tokenizer._backend, {name: tokenizer.whole()})
        written.settle(tokenizer.companions, None, tokenizer.eod)
    elif tokenizer.added:
        names = ", ".join(repr(token.content) for token in tokenizer.added[:3])
        notes.append(
            f"{tokenizer.name} reads {len(tokenizer.added)} added tokens ({names}, …) as ordinary "
            "text there: a sentencepiece model has no place for them"
        )
    return written, notes + unknown_there(written)


def is_written_anew(tokenizer: HuggingFaceTokenizer) -> bool:
    """Tell whether the tokenizer's files alone would make other tokens there than here."""
    import tokenizers

    if tokenizer.added or tokenizer.dropout:
        return True
    if tokenizer.name != "HFTokenizer":
        return False
    saved = tokenizers.Tokenizer.from_buffer(next(iter(tokenizer.files.values())))
    return saved.truncation is not None or saved.padding is not None


def unknown_there(tokenizer: Tokenizer) -> list[str]:
    """Name what NeoX has no key and no file for, one line each."""
    notes = []
    if tokenizer.eod is not None and tokenizer.eod != _end_there(tokenizer):
        notes.append(
            f"documents end with {tokenizer.text_of(tokenizer.eod)!r}, token {tokenizer.eod}: "
            f"NeoX's {tokenizer.name} knows no end but {EOD}, so --append-eod and generation "
            "there do not use it"
        )
    more = sorted(tokenizer.stops - {tokenizer.eod})
    if more:
        ids = ", ".join(map(str, more))
        notes.append(f"generation stops at the tokens {ids} as well, which NeoX has no key for")
    if isinstance(tokenizer, SentencePieceTokenizer) and tokenizer.begin is not None:
        notes.append(f"the token {tokenizer.begin} before every text is not put there by NeoX")
    if tokenizer.companions.files:
        names = ", ".join(tokenizer.companions.files)
        notes.append(f"beside the tokenizer lie {names}, which NeoX does not read")
    return notes


def _end_there(tokenizer: Tokenizer) -> int | None:
    """Return the id of the token by which NeoX finds the end of a document, whatever the kind."""
    return 0 if tokenizer.name == "CharLevelTokenizer" else tokenizer.id_of(EOD)
