r"""GPT-2's kind of tokenizer, several times faster: words are encoded once and remembered.

A byte-level tokenizer splits a text by a pattern and encodes each match by itself:

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

A match starts where the one before ended, and what it is depends on nothing that precedes it. So
wherever two neighbouring characters can never be in one match, the text may be cut, and the parts
encoded apart: between a letter and what is no letter, a digit and what is no digit, a mark other
than the apostrophe and a letter, digit or space, and between anything visible and a space.
`PRETOKEN` cuts only before ASCII, where every version of Unicode agrees and where Unicode
normalization joins nothing. The library itself encodes each new pretoken; a `PLAIN` one is a single
match, which goes straight to its model.

Tokens that were added to the vocabulary are looked for before the split. Runs of spaces are never
cut; a text in which another one is written goes to the library whole.
"""

import json
import re
from array import array
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import models

SPACE = r"[\t-\r ]"
PRETOKEN = re.compile(
    rf"{SPACE}*+(?:'?[A-Za-z]++(?![^\x00-\x7f])"  # a word, at whose end is ASCII
    r"|[0-9]++(?![^\x00-\x7f])"
    rf"|[!-&(-/:-@\[-`{{-~]++(?=[A-Za-z0-9]|{SPACE}|\Z))"
    rf"|(?:{SPACE}*+[^\t-\r ]++)+?(?:(?<=\S)|\Z)"  # anything else, up to the next space
    r"|(?s:.+)"  # spaces at the end
)
PLAIN = re.compile(r" ?(?:[A-Za-z]+|[0-9]+|[!-&(-/:-@\[-`{-~]+)")
BYTE_OF_SPACE = "Ġ"  # in byte-level vocabularies; other visible ASCII stands for itself
LONGEST = 64  # characters of a pretoken that is remembered
MOST = 1 << 18  # pretokens remembered; some 60 MB
MOST_ADDED = 32  # each is looked for in every text


class PretokenCache(dict[str, bytes]):
    """The ids of pretokens, as the bytes of an int32 array, encoded when first asked for."""

    def __init__(self, backend: tokenizers.Tokenizer, added: list[str], ascii_only: bool) -> None:
        super().__init__()
        self._backend = backend
        self._model = backend.model
        self._added = added
        self._ascii_only = ascii_only

    def encode(self, text: str) -> NDArray[np.int32]:
        if self._must_be_whole(text):
            return np.asarray(self._backend.encode(text).ids, np.int32)
        ids = b"".join(map(self.__getitem__, PRETOKEN.findall(text)))
        return np.frombuffer(ids, np.int32)

    def __missing__(self, pretoken: str) -> bytes:
        if PLAIN.fullmatch(pretoken):
            tokens = self._model.tokenize(pretoken.replace(" ", BYTE_OF_SPACE))
            ids = array("i", [token.id for token in tokens]).tobytes()
        elif pretoken[0] == "\n" and pretoken[1:2] != " " and PLAIN.fullmatch(pretoken, 1):
            ids = self["\n"] + self[pretoken[1:]]  # a single line end is a match of its own
        else:
            ids = array("i", self._backend.encode(pretoken).ids).tobytes()
        if len(pretoken) <= LONGEST:
            if len(self) >= MOST:
                self.clear()
            self[pretoken] = ids
        return ids

    def _must_be_whole(self, text: str) -> bool:
        if self._ascii_only and not text.isascii():
            return True
        return any(token in text for token in self._added)


def pretoken_cache(backend: tokenizers.Tokenizer) -> PretokenCache | None:
    """Return a way to encode pretoken by pretoken; None for a tokenizer that may not allow it."""
    added = backend.get_added_tokens_decoder().values()
    split, normalizer = settings(backend.pre_tokenizer), settings(backend.normalizer)
    allowed = (
        split.get("type") == "ByteLevel"
        and split.get("use_regex", True)
        and not split["add_prefix_space"]
        and normalizer in ({}, {"type": "NFC"})
        and settings(backend.post_processor).get("type", "ByteLevel") == "ByteLevel"
        and isinstance(backend.model, models.BPE)
        and not backend.model.dropout
        and backend.truncation is None
        and backend.padding is None
        # a token that takes spaces around it, or looks at what is around it, cannot be cut out
        and not any(token.single_word or token.lstrip or token.rstrip for token in added)
        and not any(token.content == " " for token in added)
    )
    written = [token for token in added if not token.content.isspace()]
    if not allowed or len(written) > MOST_ADDED:
        return None
    # Such a token is looked for in the normalized text, which is the text itself where it is ASCII.
    hidden = bool(normalizer) and any(token.normalized for token in written)
    return PretokenCache(backend, [token.content for token in written], hidden)


def settings(part: Any) -> dict[str, Any]:
    """Read a part of a tokenizer, as in tokenizer.json; empty for none."""
    return {} if part is None else dict(json.loads(part.__getstate__()))
