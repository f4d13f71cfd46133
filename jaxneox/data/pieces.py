r"""GPT-2's kind of tokenizer, several times faster: words are encoded once and remembered.

A byte-level tokenizer splits a text by a pattern and encodes each match by itself:

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

A match starts where the one before ended, and what it is depends on nothing that precedes it. So
wherever two neighbouring characters can never be in one match, the text may be cut, and the parts
encoded apart: between a letter and what is no letter, a digit and what is no digit, a mark other
than the apostrophe and a letter, digit or space, and between anything visible and a space. `PIECE`
cuts only before ASCII, where every version of Unicode agrees and where Unicode normalization
joins nothing. The library itself encodes each new piece, so that nothing else can differ.

Tokens that were added to the vocabulary are looked for before the split. Runs of spaces are never
cut; a text in which another one is written goes to the library whole.
"""

import json
import re
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

SPACE = r"[\t-\r ]"
PIECE = re.compile(
    rf"{SPACE}*+(?:'?[A-Za-z]++(?![^\x00-\x7f])"  # a word, at whose end is ASCII
    r"|[0-9]++(?![^\x00-\x7f])"
    rf"|[!-&(-/:-@\[-`{{-~]++(?=[A-Za-z0-9]|{SPACE}|\Z))"
    rf"|(?:{SPACE}*+[^\t-\r ]++)+?(?:(?<=\S)|\Z)"  # anything else, up to the next space
    r"|(?s:.+)"  # spaces at the end
)
LONGEST = 64  # characters of a piece that is remembered
MOST = 1 << 18  # pieces remembered; some 60 MB
MOST_ADDED = 32  # each is looked for in every text


class Pieces(dict[str, bytes]):
    """The ids of pieces, as the bytes of an int32 array, encoded when first asked for."""

    def __init__(self, backend: tokenizers.Tokenizer, added: list[str], ascii_only: bool) -> None:
        super().__init__()
        self._backend = backend
        self._added = added
        self._ascii_only = ascii_only

    def encode(self, text: str) -> NDArray[np.int32]:
        if self._must_be_whole(text):
            return np.asarray(self._backend.encode(text).ids, np.int32)
        ids = b"".join(map(self.__getitem__, PIECE.findall(text)))
        return np.frombuffer(ids, np.int32)

    def __missing__(self, piece: str) -> bytes:
        ids = np.asarray(self._backend.encode(piece).ids, np.int32).tobytes()
        if len(piece) <= LONGEST:
            if len(self) >= MOST:
                self.clear()
            self[piece] = ids
        return ids

    def _must_be_whole(self, text: str) -> bool:
        if self._ascii_only and not text.isascii():
            return True
        return any(token in text for token in self._added)


def pieces_of(backend: tokenizers.Tokenizer) -> Pieces | None:
    """A way to encode piece by piece; None for a tokenizer that is not known to allow it."""
    parts = json.loads(backend.to_str())
    split, normalizer = parts["pre_tokenizer"] or {}, parts["normalizer"]
    allowed = (
        parts["truncation"] is None
        and parts["padding"] is None
        and (normalizer is None or normalizer == {"type": "NFC"})
        and split.get("type") == "ByteLevel"
        and split.get("use_regex", True)
        and not split["add_prefix_space"]
        and (parts["post_processor"] or {"type": "ByteLevel"})["type"] == "ByteLevel"
        and parts["model"]["type"] == "BPE"
        and not parts["model"]["dropout"]
    )
    if not allowed or any(map(_reaches_out, parts["added_tokens"])):
        return None
    added = [token for token in parts["added_tokens"] if not token["content"].isspace()]
    if len(added) > MOST_ADDED:
        return None
    # Such a token is looked for in the normalized text, which is the text itself where it is ASCII.
    hidden = normalizer is not None and any(token["normalized"] for token in added)
    return Pieces(backend, [token["content"] for token in added], hidden)


def _reaches_out(token: dict[str, Any]) -> bool:
    """Whether finding an added token depends on what is around it."""
    return bool(token["single_word"] or token["lstrip"] or token["rstrip"])
