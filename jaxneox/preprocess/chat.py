"""Conversations to tokens by a tokenizer's chat template, and labels for one role's turns.

The tokens are those of NeoX's preprocess_data_with_chat_template.py, and so are the labels wherever
it loses nothing.
"""

import hashlib
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from jaxneox.data.companions import CONFIG, companions_in
from jaxneox.data.documents import Chunk
from jaxneox.data.huggingface import RenderedTexts, made_whole, notes_on, opened, register
from jaxneox.data.library import faults
from jaxneox.errors import UserError
from jaxneox.preprocess.encode import UNSEEN, Document, Encoded, packed
from jaxneox.preprocess.turns import (
    Conversation,
    are_beginnings,
    reached,
    spans_of_growth,
    spans_of_marks,
)
from jaxneox.reading import refuse_unreadable
from jaxneox.templates.jinja import Rendered, Span, TemplateFault
from jaxneox.templates.limited import LimitedTemplate, ToRender
from jaxneox.templates.source import special_tokens_of, template_of

Turns = list[dict[str, Any]]
INT32 = np.dtype(np.int32)
CONVERSATIONS = ("conversation", "messages")
PROMPT, COMPLETION = "prompt", "completion"


@dataclass(frozen=True)
class ChatRecipe:
    """Settings for keys that each hold a conversation, a list of {"role": …, "content": …}.

    The turns of `role` are learned; of a `pair`, a prompt with its completion, only those of the
    completion.
    """

    folder: pathlib.Path  # tokenizer.json, tokenizer_config.json
    template: pathlib.Path | None = None  # in place of the folder's
    keys: tuple[str, ...] = CONVERSATIONS[:1]
    role: str = "assistant"
    only_last: bool = False
    no_mask: bool = False
    pair: bool = False
    eos: str | None = None  # ends a text, where the folder has no tokenizer_config.json

    @property
    def columns(self) -> tuple[str, ...]:
        return (PROMPT, *self.keys) if self.pair else self.keys

    def build(self) -> "ChatEncoder":
        return ChatEncoder(self)


class Chat(NamedTuple):
    """A conversation, and where it is: the line of a file, and the key."""

    conversation: Conversation
    where: str
    key: str


class ChatEncoder:
    """Encodes conversations by a chat template."""

    def __init__(self, recipe: ChatRecipe) -> None:
        self.recipe = recipe
        if recipe.eos is None:
            _file_in(recipe.folder, CONFIG)
        path = _file_in(recipe.folder, "tokenizer.json")
        beside = companions_in(recipe.folder, without=(path.name,))
        special = special_tokens_of(beside.files, recipe.folder)
        if recipe.eos is not None:
            special = {"eos_token": recipe.eos} | special
        source = template_of(beside.files, recipe.folder, recipe.template)
        if source is None:
            raise UserError(
                f"{recipe.folder}: no chat_template.jinja and no chat_template in "
                "tokenizer_config.json; give --chat-template FILE"
            )
        self._template = LimitedTemplate(source.text, special, str(source.origin))
        content = path.read_bytes()
        backend = opened(path, content)
        with faults(f"{path}: the tokenizers library cannot use it"):
            notes = notes_on(made_whole(backend))
            _, more = register(backend, beside)
        self._texts = RenderedTexts(backend, path)
        self.notes = (*notes, *more)
        eos = special.get("eos_token")
        self._eos = None if eos is None else backend.token_to_id(eos)
        self._template.check()
        self.dtypes = {name: INT32 for key in recipe.keys for name in self._names(key)}
        self.identity = {
            "tokenizer": hashlib.sha256(content).hexdigest(),
            "template": source.text,
            "special": special,
            "keys": list(recipe.keys),
            "settings": [recipe.role, recipe.only_last, recipe.no_mask, recipe.pair],
        }

    def encode(self, chunk: Chunk) -> Encoded:
        records = [
            (where, [self._conversation(value, key, where) for key in self.recipe.keys])
            for where, value in chunk.records()
        ]
        every = [
            Chat(conversation, where, key)
            for where, conversations in records
            for key, conversation in zip(self.recipe.keys, conversations, strict=True)
        ]
        columns = [self._columns(*one) for one in zip(every, self._rendered(every), strict=True)]
        width = len(self.recipe.keys)
        documents = [
            tuple(column for some in columns[i : i + width] for column in some)
            for i in range(0, len(columns), width)
        ]
        return packed(chunk.read, documents, self.dtypes)

    def _names(self, key: str) -> list[str]:
        return [key] if self.recipe.no_mask else [key, f"{key}_label"]

    def _conversation(self, value: Any, key: str, where: str) -> Conversation:
        role, only_last = self.recipe.role, self.recipe.only_last
        if not self.recipe.pair:
            return Conversation(_turns(value, key, where), role, only_last)
        asked = _turns(_spoken(value, PROMPT, "user"), PROMPT, where)
        answered = _turns(_spoken(value, COMPLETION, role), COMPLETION, where)
        return Conversation([*asked, *answered], role, only_last, first=len(asked))

    def _rendered(self, chats: Sequence[Chat], prompts: bool = True) -> list[list[Rendered]]:
        """Render the beginnings of conversations, or with --no-mask the whole ones alone."""
        asked = []
        for chat in chats:
            turns = chat.conversation.turns
            counts = range(1, len(turns) + 1)
            grown = [(i, prompts and chat.conversation.prompted(i)) for i in counts]
            asked.append(ToRender(turns, [(len(turns), False)] if self.recipe.no_mask else grown))
        try:
            return self._template.render(asked)
        except TemplateFault as fault:
            _, where, key = chats[fault.number]
            raise UserError(f'{where}: the chat template fails on "{key}": {fault}') from fault

    def _columns(self, chat: Chat, growing: list[Rendered]) -> Document:
        tokens: Sequence[Sequence[int]]
        if self.recipe.no_mask:
            tokens = [one.ids for one in self._texts.encodings([growing[-1].text], chat.where)]
        else:
            tokens = self._labelled(chat, growing)
        return tuple(np.asarray(column, np.int32) for column in tokens)

    def _labelled(self, chat: Chat, growing: list[Rendered]) -> tuple[list[int], list[int]]:
        """Make tokens, and labels that are UNSEEN but in the turns that are learned.

        NeoX takes for a turn's tokens those by which the tokens of all turns until it are more than
        those until the one before. That loses words where the former do not begin with the latter:
        there the characters decide.
        """
        encodings = self._texts.encodings([one.text for one in growing], chat.where)
        tokens = [encoding.ids for encoding in encodings]
        if are_beginnings(tokens):
            seen = [False] * len(tokens[-1])
            for start, end in spans_of_growth(tokens, chat.conversation.learned):
                seen[start:end] = [True] * (end - start)
        else:
            seen = self._seen(chat, growing, encodings[-1])
        labels = [token if one else UNSEEN for token, one in zip(tokens[-1], seen, strict=True)]
        if self._eos is None:
            return tokens[-1], labels
        last = self._eos if labels and labels[-1] != UNSEEN else UNSEEN
        return [*tokens[-1], self._eos], [*labels, last]

    def _seen(self, chat: Chat, growing: list[Rendered], whole: tokenizers.Encoding) -> list[bool]:
        """Mark the tokens of the whole conversation that are learned, by its characters."""
        conversation = chat.conversation
        texts = [one.text for one in growing]
        spans: list[Span] | None = []
        if any(conversation.learned):
            if are_beginnings(texts):
                spans = spans_of_growth(texts, conversation.learned)
            else:
                spans = spans_of_marks(growing[-1], conversation)
        if spans is None:
            spans = self._without_prompts(chat)
        return reached(whole, texts[-1], spans)

    def _without_prompts(self, chat: Chat) -> list[Span]:
        """Find the learned turns without their prompts.

        A prompt may be of another role than the turn that follows, or say more than it does.
        """
        (growing,) = self._rendered([chat], prompts=False)
        texts = [one.text for one in growing]
        if are_beginnings(texts):
            return spans_of_growth(texts, chat.conversation.learned)
        raise UserError(
            f'{chat.where}: the chat template renders the first turns of "{chat.key}" in another '
            "way than all of them, so that the turns cannot be told apart; give a template that "
            "marks what the assistant writes with {% generation %} (--chat-template FILE), or "
            "learn everything (--no-mask)"
        )


def _file_in(folder: pathlib.Path, name: str) -> pathlib.Path:
    path = folder / name
    if not path.exists():
        raise UserError(
            f"{path}: no such file; --tokenizer-path is a Hugging Face folder with {CONFIG} and "
            "tokenizer.json"
        )
    refuse_unreadable(path)
    return path


def _turns(value: Any, key: str, where: str) -> Turns:
    turns = value.get(key) if isinstance(value, dict) else None
    if isinstance(turns, list) and turns and all(map(_is_turn, turns)):
        return turns
    raise UserError(
        f'{where}: "{key}" is no conversation, expected '
        f'{{"{key}": [{{"role": "user", "content": "…"}}, …]}}'
    )


def _spoken(value: Any, key: str, role: str) -> Any:
    """Make a turn of a text; a list of turns is one already."""
    text = value.get(key) if isinstance(value, dict) else None
    return {key: [{"role": role, "content": text}]} if isinstance(text, str) else value


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str)
