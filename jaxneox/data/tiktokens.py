"""Tokenizers of OpenAI's tiktoken."""

import base64
import json
from collections.abc import Sequence

from jaxneox.data.tokenizer_base import EOD, Tokenizer, existing
from jaxneox.errors import UserError
from jaxneox.reading import INDEX_SIZE, read_object


class TiktokenTokenizer(Tokenizer):
    """A tiktoken encoding, saved with its ranks so that a run folder needs no download."""

    name = "TiktokenTokenizer"

    def __init__(self, encoding: str) -> None:
        try:
            import tiktoken
        except ImportError as error:
            raise UserError(f"tokenizer-type: {self.name} needs `pip install tiktoken`") from error
        if encoding.endswith(".json"):
            saved = read_object(existing(encoding, "vocab-file"), INDEX_SIZE)
            ranks = {base64.b64decode(token): rank for token, rank in saved.pop("ranks").items()}
            self._backend = tiktoken.Encoding(**saved, mergeable_ranks=ranks)
        else:
            try:
                self._backend = tiktoken.get_encoding(encoding)
            except Exception as error:  # its downloader may raise anything
                known = ", ".join(tiktoken.list_encoding_names())
                raise UserError(
                    f"vocab-file: tiktoken cannot get the encoding {encoding!r} "
                    f"({type(error).__name__}); it knows {known}, whose files it looks for in "
                    "$TIKTOKEN_CACHE_DIR"
                ) from error
        self.vocab_size = self._backend.n_vocab
        self.eod = self._backend._special_tokens.get(EOD)
        ranks_of = self._backend._mergeable_ranks
        content = {
            "name": self._backend.name,
            "pat_str": self._backend._pat_str,
            "special_tokens": self._backend._special_tokens,
            "ranks": {base64.b64encode(token).decode(): rank for token, rank in ranks_of.items()},
        }
        self.files = {"tiktoken.json": json.dumps(content).encode()}

    def _encode(self, text: str) -> list[int]:
        return self._backend.encode(text, allowed_special="all")

    def spans(self, text: str) -> list[tuple[int, int]]:
        at = [place for place, character in enumerate(text) for _ in character.encode()]
        found, start = list[tuple[int, int]](), 0
        for token in self.encode(text):
            end = start + len(self._backend.decode_single_token_bytes(token))
            found.append((at[start], at[end - 1] + 1))
            start = end
        return found

    def _decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode([int(i) for i in ids])

    def id_of(self, token: str) -> int | None:
        id_: int | None = self._backend._special_tokens.get(token)
        return id_
