"""Rows of answers as datasets to learn from.

Pairs are for DPO and reward models, rated answers for KTO, completions for REINFORCE.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data.documents import Chunk
from jaxneox.data.tokenizer import build_tokenizer
from jaxneox.preprocess.answers import AnswerKind, AnswerReader, AnswerRow, GivenAnswer
from jaxneox.preprocess.chat import INT32, ChatRecipe
from jaxneox.preprocess.continuations import Continuations
from jaxneox.preprocess.conversations import TOKENIZER, Chat, ChatTokenizer
from jaxneox.preprocess.encode import Document, Encoded, packed
from jaxneox.preprocess.prompts import SIDES
from jaxneox.preprocess.rewards import NUMBER
from jaxneox.preprocess.turns import Conversation

TEXT = "text"
EQUAL = "equal pairs"
"""Under which `Encoded.counts` has how many pairs have the same tokens on both sides."""

DATASETS: dict[AnswerKind, dict[str, np.dtype[Any]]] = {
    "pairs": {f"{side}{end}": INT32 for side in SIDES for end in ("", "_label")},
    "rated": {TEXT: INT32, f"{TEXT}_label": INT32, f"{TEXT}_reward": NUMBER},
    "completions": {
        TEXT: INT32, f"{TEXT}_label": INT32, f"{TEXT}_reward": NUMBER, f"{TEXT}_prompt": INT32,
    },
}  # fmt: skip
"""The datasets of each kind: tokens and labels, rewards, and the numbers of the prompts."""


@dataclass(frozen=True)
class PreferenceRecipe:
    """Settings for rows of one kind.

    Attributes:
        reader: reads them.
        columns: the keys that are read.
        chat: renders conversations; None if there are only texts.
        tokenizer: of texts; None for that of `chat`.
        labels: what is labelled: the answers, or the end for a reward model.
    """

    reader: AnswerReader
    columns: tuple[str, ...]
    chat: ChatRecipe | None = None
    tokenizer: TokenizerConfig | None = None
    labels: Literal["turns", "end"] = "turns"

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(DATASETS[self.reader.kind])

    def build(self) -> "PreferenceEncoder":
        return PreferenceEncoder(self)


class PreferenceEncoder:
    """Encodes rows with answers. A pair is one document, and so is each other answer."""

    def __init__(self, recipe: PreferenceRecipe) -> None:
        self.recipe = recipe
        self.dtypes = DATASETS[recipe.reader.kind]
        self.notes: tuple[str, ...] = ()
        self.identity: dict[str, Any] = {
            "reader": list(recipe.reader),
            "columns": list(recipe.columns),
            "labels": recipe.labels,
        }
        self._chats, self._texts = None, None
        if (chat := recipe.chat) is not None:
            self._chats = ChatTokenizer(
                chat.folder, chat.template, chat.eos, recipe.labels, one_end=True
            )
            self.notes = self._chats.notes
            self.identity |= self._chats.identity
        else:
            assert recipe.tokenizer is not None
            tokenizer = build_tokenizer(recipe.tokenizer)
            self._texts = Continuations(tokenizer, recipe.labels)
            self.notes = tokenizer.notes
            self.identity["tokenizer"] = tokenizer.fingerprint()

    def encode(self, chunk: Chunk) -> Encoded:
        rows = [self.recipe.reader.read(value, where) for where, value in chunk.records()]
        made = iter(self._made([answer for row in rows for answer in row.answers]))
        if self.recipe.reader.kind == "pairs":
            pairs = [(*next(made), *next(made)) for _ in rows]
            equal = sum(np.array_equal(pair[0], pair[2]) for pair in pairs)
            return packed(chunk.read, pairs, self.dtypes, {EQUAL: equal})
        documents = [
            (*next(made), *beside)
            for number, row in enumerate(rows)
            for beside in self._beside(row, number)
        ]
        numbered = f"{TEXT}_prompt"
        counts = {numbered: len(rows)} if numbered in self.dtypes else {}
        return packed(chunk.read, documents, self.dtypes, counts)

    def _beside(self, row: AnswerRow, number: int) -> list[Document]:
        """Return for each answer of a row its reward, and the number of its prompt."""
        prompt = (np.array([number], np.int32),) * (f"{TEXT}_prompt" in self.dtypes)
        return [(np.array([reward], NUMBER), *prompt) for reward in row.rewards]

    def _made(self, answers: Sequence[GivenAnswer]) -> list[Document]:
        """Return the tokens and labels of each answer."""
        chats = [Chat(one.said, one.where, one.key) for one in answers
                 if isinstance(one.said, Conversation)]  # fmt: skip
        texts = [(one.said, one.where) for one in answers if isinstance(one.said, tuple)]
        rendered = iter(self._chats.documents(chats) if self._chats is not None else ())
        continued = iter(self._continued(texts) if texts else ())
        return [
            next(rendered if isinstance(one.said, Conversation) else continued) for one in answers
        ]

    def _continued(self, texts: Sequence[tuple[tuple[str, str], str]]) -> list[Document]:
        if self._texts is None:
            chat, chats = self.recipe.chat, self._chats
            assert chat is not None and chats is not None
            file = str(chat.folder / TOKENIZER)
            config = TokenizerConfig("HFTokenizer", file, None, eod_token=chats.end_text)
            self._texts = Continuations(build_tokenizer(config), self.recipe.labels)
        return self._texts.documents([said for said, _ in texts], [where for _, where in texts])
