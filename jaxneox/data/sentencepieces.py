"""A sentencepiece model, with the tokens that were added to it."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxneox.data.companions import Added, Companions
from jaxneox.data.tokenizer_base import Tokenizer
from jaxneox.errors import UserError

APART = "\ue000"
"""A character of no vocabulary: what follows it is encoded as if a text went on there."""


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model file, and the added tokens that its folder lists.

    The model itself knows no token by its text. Added ones cut the text, and what is between them
    is encoded by itself: as LlamaTokenizer does, with the model's leading space before the first
    part alone or, where tokenizer_config.json says `legacy`, before each.
    """

    name = "SPMTokenizer"

    def __init__(self, model: Path, content: bytes, companions: Companions) -> None:
        try:
            import sentencepiece
        except ImportError as error:
            raise UserError(f"tokenizer-type: {self.name} needs `pip install sentencepiece`") from (
                error
            )
        self.files = {model.name: content}
        try:
            self._backend = sentencepiece.SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise UserError(f"{model}: vocab-file is no sentencepiece model") from error
        self.vocab_size = self._backend.get_piece_size()
        self._legacy, self._add_bos = companions.legacy, companions.add_bos
        begin = self._backend.bos_id()
        self.bos = begin if begin >= 0 else None
        self._named: dict[str, int] = {}
        self.added = tuple(self._added(companions))
        self._special = {token.id for token in self.added if token.special}
        self._by_id = {token.id: token.content for token in self.added}
        self._named = {token.content: token.id for token in self.added}
        self._longest_first = sorted(self.added, key=lambda token: -len(token.content))
        alternatives = "|".join(f"({_alternative(token)})" for token in self._longest_first)
        self._cuts = re.compile(alternatives) if self.added else None
        self._marks: list[int] = self._backend.encode(APART)
        self.vocab_size += len({i for i in self._by_id if i >= self.vocab_size})

    @property
    def rows(self) -> int:
        return max(self._backend.get_piece_size(), *(i + 1 for i in self._by_id), 0)

    @property
    def natural_eod(self) -> int | None:
        """The end of a document as in NeoX; if the model has no such piece, its own end."""
        eod, own = super().natural_eod, self._backend.eos_id()
        return own if eod is None and own >= 0 else eod

    def id_of(self, token: str) -> int | None:
        if token in self._named:
            return self._named[token]
        # For a piece that is missing sentencepiece answers <unk>: no end of anything.
        id_: int = self._backend.piece_to_id(token)
        missing = id_ == self._backend.unk_id() and self._backend.id_to_piece(id_) != token
        return None if missing else id_

    def text_of(self, token: int) -> str:
        return self._by_id.get(token) or str(self._backend.id_to_piece(token))

    def unknown(self) -> str:
        """The text of the piece that stands for what the model does not know."""
        return str(self._backend.id_to_piece(self._backend.unk_id()))

    def _encode(self, text: str) -> list[int]:
        begin = [self.bos] if self._add_bos and self.bos is not None else []
        return [*begin, *self._encode_rendered(text)]

    def _encode_rendered(self, text: str) -> list[int]:
        tokens: list[int] = []
        for start, end, token in self._parts(text):
            tokens += self._between(text[start:end], first=start == 0) if token is None else [token]
        return tokens

    def spans(self, text: str) -> list[tuple[int, int]]:
        found = [(0, 0)] if self._add_bos and self.bos is not None else []
        for start, end, token in self._parts(text):
            if token is not None:
                found.append((start, end))
                continue
            apart = "" if start == 0 or self._legacy else APART
            made = self._pieces(apart + text[start:end]) if end > start else []
            shift = start - len(apart)
            for first, last in made[len(self._marks) if apart else 0 :]:
                found.append((max(start, shift + first), shift + last))
        return found

    def _pieces(self, text: str) -> list[tuple[int, int]]:
        """Return the characters of each piece of a text without added tokens."""
        until_0_2_1 = getattr(self._backend, "encode_as_immutable_proto", None)
        if until_0_2_1 is not None:
            return [(piece.begin, piece.end) for piece in until_0_2_1(text).pieces]
        found: dict[str, Any] = self._backend.encode(text, out_type="offset_mapping")
        return [(first, last) for first, last in found["offsets"]]

    def _parts(self, text: str) -> Iterator[tuple[int, int, int | None]]:
        """Cut a text at its added tokens: (start, end, token), or None for what is between them."""
        at = 0
        for cut in self._cuts.finditer(text) if self._cuts is not None else ():
            yield at, cut.start(), None
            assert cut.lastindex is not None
            yield cut.start(), cut.end(), self._longest_first[cut.lastindex - 1].id
            at = cut.end()
        yield at, len(text), None

    def _between(self, text: str, *, first: bool) -> list[int]:
        if not text:
            return []
        if first or self._legacy:
            return list(self._backend.encode(text))
        return list(self._backend.encode(APART + text))[len(self._marks) :]

    def _own(self) -> list[object]:
        flags = {"bos": self._add_bos, "legacy": self._legacy}
        return super()._own() + [name for name, there in flags.items() if there]

    def _decode(self, ids: Sequence[int]) -> str:
        numbers = [int(i) for i in ids]
        if not self._by_id.keys() & {*numbers}:
            return str(self._backend.decode(numbers))
        text, run = "", list[int]()
        for number in [*numbers, None]:
            if number is not None and number not in self._by_id:
                run.append(number)
                continue
            text += self._text(run, first=not text)
            run = []
            if number is not None and number not in self._special:
                text += self._by_id[number]
        return text

    def _text(self, run: list[int], *, first: bool) -> str:
        if not run or first or self._legacy:
            return str(self._backend.decode(run)) if run else ""
        marked = str(self._backend.decode([*self._marks, *run]))
        return marked.partition(APART)[2]

    def _added(self, companions: Companions) -> Iterator[Added]:
        """Yield the tokens with an id of their own, and the model's own special pieces."""
        seen: set[str] = set()
        for token in companions.added:
            seen.add(token.content)
            yield token
        for text in companions.special:
            id_ = self.id_of(text)
            if id_ is not None and text not in seen:
                yield Added(text, id_, special=True)


def _alternative(token: Added) -> str:
    word = re.escape(token.content)
    if token.single_word:
        word = rf"(?<!\w){word}(?!\w)"
    spaces = r"\s*"
    return f"{spaces * token.lstrip}{word}{spaces * token.rstrip}"
