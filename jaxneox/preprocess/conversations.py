"""Conversations to tokens by a tokenizer's chat template, and labels for what is learned of them.

The tokens are those of NeoX's preprocess_data_with_chat_template.py, and so are the labels wherever
it loses nothing.
"""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import tokenizers

from jaxneox.data.companions import CONFIG, companions_in
from jaxneox.data.huggingface import RenderedTexts, made_whole, notes_on, opened, register
from jaxneox.data.library import faults
from jaxneox.errors import UserError
from jaxneox.preprocess.encode import UNSEEN, Document
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

TOKENIZER = "tokenizer.json"

Labels = Literal["turns", "end", "none"]
"""What is labelled: the learned turns; for a reward model only a second end of the text, at which
it gives its value; or nothing, and there are no labels."""


class Chat(NamedTuple):
    """A conversation, and where it is: the line of a file, and the key."""

    conversation: Conversation
    where: str
    key: str


class ChatTokenizer:
    """Turns conversations into tokens and labels.

    Attributes:
        notes: what a user should know of the tokenizer, a line each.
        identity: all that the tokens depend on, as JSON.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        template: pathlib.Path | None = None,
        eos: str | None = None,
        labels: Labels = "turns",
        *,
        one_end: bool = False,
    ) -> None:
        """Open a tokenizer and its template.

        Args:
            folder: has tokenizer.json, and tokenizer_config.json where `eos` is None.
            template: a file of Jinja in place of the folder's.
            eos: the text of the token that ends a text, if the folder does not say.
            labels: what is labelled.
            one_end: for answers: add no end where the template has put one, as NeoX does.

        Raises:
            UserError: a file is missing or wrong.
        """
        if eos is None:
            _file_in(folder, CONFIG)
        path = _file_in(folder, TOKENIZER)
        beside = companions_in(folder, without=(path.name,))
        special = special_tokens_of(beside.files, folder)
        if eos is not None:
            special = {"eos_token": eos} | special
        source = template_of(beside.files, folder, template)
        self._template = None
        if source is not None:
            self._template = LimitedTemplate(source.text, special, str(source.origin))
        content = path.read_bytes()
        backend = opened(path, content)
        with faults(f"{path}: the tokenizers library cannot use it"):
            notes = notes_on(made_whole(backend))
            _, more = register(backend, beside)
        self._texts = RenderedTexts(backend, path)
        self.notes = (*notes, *more)
        self.end_text = special.get("eos_token")
        end = None if self.end_text is None else backend.token_to_id(self.end_text)
        if labels == "end" and end is None:
            raise UserError(
                f"--for-rm: {folder} names no eos_token, at which a reward model gives its value; "
                f"name one in its {CONFIG}"
            )
        self._folder, self._labels, self._end, self._one_end = folder, labels, end, one_end
        if self._template is not None:
            self._template.check()
        self.identity = {
            "tokenizer": hashlib.sha256(content).hexdigest(),
            "template": None if source is None else source.text,
            "special": special,
        }

    def require_template(self) -> LimitedTemplate:
        """Return the template.

        Raises:
            UserError: there is none.
        """
        if self._template is None:
            raise UserError(
                f"{self._folder}: no chat_template.jinja and no chat_template in "
                "tokenizer_config.json; give --chat-template FILE"
            )
        return self._template

    def documents(self, chats: Sequence[Chat]) -> list[Document]:
        """Return the tokens of each conversation, with its labels if there are any.

        Raises:
            UserError: the template or the tokenizer fails.
        """
        rendered = self.rendered(chats) if chats else []
        columns = [self._columns(*one) for one in zip(chats, rendered, strict=True)]
        return [tuple(np.asarray(one, np.int32) for one in document) for document in columns]

    def rendered(self, chats: Sequence[Chat], prompts: bool = True) -> list[list[Rendered]]:
        """Render the beginnings of conversations, or the whole ones alone if no turn is labelled.

        `prompts` adds to each beginning the prompt for the answer that follows it.
        """
        asked = []
        for chat in chats:
            turns = chat.conversation.turns
            counts = range(1, len(turns) + 1)
            grown = [(i, prompts and chat.conversation.prompted(i)) for i in counts]
            whole = [(len(turns), False)]
            asked.append(ToRender(turns, grown if self._labels == "turns" else whole))
        try:
            return self.require_template().render(asked)
        except TemplateFault as fault:
            _, where, key = chats[fault.number]
            raise UserError(f'{where}: the chat template fails on "{key}": {fault}') from fault

    def _columns(self, chat: Chat, growing: list[Rendered]) -> tuple[list[int], ...]:
        if self._labels == "turns":
            return self.labelled(chat, growing)
        (whole,) = self._texts.encodings([growing[-1].text], chat.where)
        return ended_twice(whole.ids, self._end) if self._labels == "end" else (whole.ids,)

    def labelled(self, chat: Chat, growing: list[Rendered]) -> tuple[list[int], list[int]]:
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
        if self._end is None:
            return tokens[-1], labels
        if self._one_end and tokens[-1][-1:] == [self._end]:
            learned = chat.conversation.learned[-1]
            return tokens[-1], [*labels[:-1], self._end if learned else UNSEEN]
        last = self._end if labels and labels[-1] != UNSEEN else UNSEEN
        return [*tokens[-1], self._end], [*labels, last]

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
        (growing,) = self.rendered([chat], prompts=False)
        texts = [one.text for one in growing]
        if are_beginnings(texts):
            return spans_of_growth(texts, chat.conversation.learned)
        way_out = "" if self._one_end else ", or learn everything (--no-mask)"  # not of answers
        raise UserError(
            f'{chat.where}: the chat template renders the first turns of "{chat.key}" in another '
            "way than all of them, so that the turns cannot be told apart; give a template that "
            "marks what the assistant writes with {% generation %} (--chat-template FILE)" + way_out
        )


def ended_twice(tokens: Sequence[int], end: Any) -> tuple[list[int], list[int]]:
    """Return a reward model's tokens and labels: two ends, of which the second is labelled.

    The model gives its value at the first, whose label the second is: NeoX's `--for-rm`.
    """
    return [*tokens, end, end], [*[UNSEEN] * (len(tokens) + 1), end]


def _file_in(folder: pathlib.Path, name: str) -> pathlib.Path:
    path = folder / name
    if not path.exists():
        raise UserError(
            f"{path}: no such file; --tokenizer-path is a Hugging Face folder with {CONFIG} and "
            "tokenizer.json"
        )
    refuse_unreadable(path)
    return path
