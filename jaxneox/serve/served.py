"""The model that is served, and the limits of what may be asked of it."""

import time
from collections.abc import Sequence
from functools import lru_cache

from jaxneox.infer.engine import Engine
from jaxneox.infer.generate import context
from jaxneox.infer.stream import UNFINISHED
from jaxneox.loading import LoadedModel

TOPS = 5
"""OpenAI's limit of `logprobs`."""


class Served:
    """A model with its engine.

    Attributes:
        context: how many tokens a prompt and its answer may have together.
        max_tokens: how many tokens one answer may have.
    """

    def __init__(self, name: str, model: LoadedModel, *, slots: int, max_tokens: int | None):
        self.name, self.model, self.tokenizer = name, model, model.tokenizer
        self.vocabulary = model.config.model.vocab_size
        self.context = context(model.config.model)
        self.max_tokens = min(max_tokens or self.context, self.context)
        self.created = int(time.time())
        known = None if self.tokenizer is None else self.tokenizer.rows
        self.engine: Engine = model.pools(slots, self.context, known, tops=TOPS)
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
