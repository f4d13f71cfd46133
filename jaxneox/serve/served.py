"""The model that is served, and the limits of what may be asked of it."""

import time
from collections.abc import Sequence
from functools import lru_cache

from jaxneox.infer.engine import Engine
from jaxneox.infer.generate import context
from jaxneox.infer.stream import UNFINISHED
from jaxneox.loading import LoadedModel
from jaxneox.templates.prompts import ChatPrompts

TOPS, CHAT_TOPS = 5, 20
"""OpenAI's limits of `logprobs`, and of chat's `top_logprobs`."""


class Served:
    """A model with its engine.

    Attributes:
        context: how many tokens a prompt and its answer may have together.
        max_tokens: how many tokens one answer may have.
        chat: makes prompts of conversations; None where nothing does, for the reason `no_chat`.
    """

    def __init__(
        self,
        name: str,
        model: LoadedModel,
        *,
        slots: int,
        max_tokens: int | None,
        chat: ChatPrompts | str = "there is no chat template here",
    ):
        """Make the engine.

        Args:
            name: of the model for its clients.
            model: what is served.
            slots: how many answers are made at a time.
            max_tokens: how long an answer may be; None for as long as the context.
            chat: makes prompts of conversations; or why nothing does.
        """
        self.name, self.model, self.tokenizer = name, model, model.tokenizer
        self.vocabulary = model.config.model.vocab_size
        self.context = context(model.config.model)
        self.max_tokens = min(max_tokens or self.context, self.context)
        self.created = int(time.time())
        known = None if self.tokenizer is None else self.tokenizer.rows
        tops = min(CHAT_TOPS, self.vocabulary, known or self.vocabulary)
        self.engine: Engine = model.pools(slots, self.context, known, tops=tops)
        self.chat = None if isinstance(chat, str) else chat
        self.no_chat = chat if isinstance(chat, str) else ""
        self.piece = lru_cache(1 << 17)(self._piece)

    def encode(self, text: str) -> list[int]:
        """Encode a text.

        Raises:
            UserError: the checkpoint has no tokenizer.
        """
        return self.model.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        return "" if self.tokenizer is None else self.tokenizer.decode(tokens)

    def _piece(self, token: int) -> str:
        """Decode a token alone; if it has no text by itself, write its number as vLLM does."""
        text = self.decode([token])
        return text if text and UNFINISHED not in text else f"token_id:{token}"
