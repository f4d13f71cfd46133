"""The tokenizer that needs no file: bytes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.tokenizer_base import Tokenizer


class CharLevelTokenizer(Tokenizer):
    """The bytes of UTF-8 in NeoX's vocabulary of 512; token 0 ends a document.

    NeoX decodes byte by byte, as Latin-1 and with a space for every control character. Here
    `decode` is the inverse of `encode`, so that a sample keeps its lines and its accents.
    """

    name = "CharLevelTokenizer"
    vocab_size = 512
    eod = 0
    files: Mapping[str, bytes] = {}

    def _encode(self, text: str) -> list[int]:
        return list(text.encode())

    @property
    def natural_eod(self) -> int | None:
        return 0

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [(at, at + 1) for at, character in enumerate(text) for _ in character.encode()]

    def _encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def _decode(self, ids: Sequence[int]) -> str:
        # UTF-8 has no byte 255: it stands for the ids that are no bytes and shows as U+FFFD.
        return bytes(min(int(i), 255) for i in ids if i != self.eod).decode(errors="replace")

    def id_of(self, token: str) -> int | None:
        ids = self.encode(token)
        return ids[0] if len(ids) == 1 else None
