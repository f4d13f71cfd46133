"""Conversations as prompts: rendered by a checkpoint's template, encoded by its tokenizer."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxneox.data.tokenizer_base import Tokenizer
from jaxneox.errors import UserError
from jaxneox.templates.jinja import TemplateFault
from jaxneox.templates.limited import LimitedTemplate, ToRender
from jaxneox.templates.source import special_tokens_of, template_of

Message = Mapping[str, Any]
DEVELOPER, SYSTEM = "developer", "system"
GIVEN = frozenset({"messages", "add_generation_prompt"})
"""The names that a request's values for the template may not have: the server sets them."""


class ChatPrompts:
    """Renders conversations with one tokenizer and its template, from any thread.

    Attributes:
        ends: tokens at which an answer ends besides the tokenizer's `stops`: the eos_token of
            tokenizer_config.json, which ends a turn, where a run ends its documents with another.
    """

    def __init__(self, tokenizer: Tokenizer, source: str, special: Mapping[str, str], origin: str):
        """Start to compile a template; it is not waited for.

        Args:
            tokenizer: encodes what is rendered.
            source: the template, Jinja.
            special: the texts of special tokens by name, such as eos_token.
            origin: the file that the template comes from, for errors.
        """
        self._tokenizer, self._lock = tokenizer, threading.Lock()
        self._template = LimitedTemplate(source, special, origin)
        self._knows_developer = DEVELOPER in source
        eos = tokenizer.companions.eos
        own = None if eos is None else tokenizer.id_of(eos)
        self.ends = () if own is None or own in tokenizer.stops else (own,)

    def check(self) -> None:
        """Wait until the template is compiled.

        Raises:
            UserError: it is not Jinja, or cannot be compiled within the limits.
        """
        with self._lock:
            self._template.check()

    def render(
        self,
        messages: Sequence[Message],
        values: Mapping[str, Any] | None = None,
        *,
        answer: bool = True,
    ) -> str:
        """Render a conversation.

        A template that does not know OpenAI's role "developer" gets it as "system", which it
        replaced; else such a message might be left out without a word.

        Args:
            messages: each with a role and a content.
            values: what else the template may ask for by name, such as enable_thinking.
            answer: whether the text ends with the beginning of an answer (add_generation_prompt).

        Raises:
            UserError: the template cannot be compiled, or cannot render this conversation.
        """
        turns = [self._known(message) for message in messages]
        asked = ToRender(turns, [(len(turns), answer)], dict(values or {}))
        try:
            with self._lock:
                ((rendered,),) = self._template.render([asked])
        except TemplateFault as fault:
            raise UserError(f"the chat template cannot render them: {fault}") from fault
        return rendered.text

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a rendered conversation; the tokenizer adds none of its own.

        Raises:
            UserError: the tokenizer's library fails, or does not end.
        """
        return self._tokenizer.encode_rendered(text)

    def _known(self, message: Message) -> Message:
        if self._knows_developer or message["role"] != DEVELOPER:
            return message
        return {**message, "role": SYSTEM}


def chat_prompts(tokenizer: Tokenizer | None, given: Path | None = None) -> ChatPrompts:
    """Make the prompts of a checkpoint.

    Args:
        tokenizer: the checkpoint's.
        given: a file with a template in place of the checkpoint's.

    Raises:
        UserError: there is no tokenizer or no template, or a file cannot be read.
    """
    if tokenizer is None:
        raise UserError(
            "the checkpoint has no tokenizer, which a conversation needs; convert or train it "
            "with one"
        )
    files, folder = tokenizer.companions.files, Path(tokenizer.origin).parent
    if (source := template_of(files, folder, given)) is None:
        raise UserError(
            "the checkpoint has no chat template: its tokenizer has no chat_template.jinja and no "
            "chat_template in tokenizer_config.json; give one with --chat-template FILE"
        )
    special = special_tokens_of(files, folder)
    return ChatPrompts(tokenizer, source.text, special, str(source.origin))
