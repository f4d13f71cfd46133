"""Texts that continue others, as tokens of which only the continuation is learned."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.tokenizer_base import Tokenizer
from jaxneox.errors import UserError
from jaxneox.preprocess.conversations import Labels, ended_twice
from jaxneox.preprocess.encode import UNSEEN, Document


class Continuations:
    """Encodes texts that continue others.

    The prompt's tokens are those that a model is given to continue it: the same on both sides of a
    pair. Where the whole text's tokens begin with them, they are the document, else both parts are
    encoded on their own.
    """

    def __init__(self, tokenizer: Tokenizer, labels: Labels) -> None:
        if tokenizer.eod is None:
            raise UserError(
                f"{tokenizer.origin or tokenizer.name}: has no <|endoftext|>, and no eos_token in "
                "a tokenizer_config.json beside it, to end an answer with; name another with "
                "--eod-token, such as </s>"
            )
        self._tokenizer, self._end, self._labels = tokenizer, tokenizer.eod, labels
        self._adds_end = all(tokenizer.encode(text)[-1:] == [tokenizer.eod] for text in "ab")

    def documents(self, texts: Sequence[tuple[str, str]], wheres: Sequence[str]) -> list[Document]:
        """Return tokens and labels.

        Args:
            texts: each a prompt, and what continues it.
            wheres: file and line of each.

        Raises:
            TokenizerFault: the tokenizer's library fails.
        """
        prompts = self._encoded([prompt for prompt, _ in texts], wheres)
        wholes = self._encoded([prompt + more for prompt, more in texts], wheres)
        results: list[Document] = []
        for (_, more), prompt, whole in zip(texts, prompts, wholes, strict=True):
            if not np.array_equal(whole[: len(prompt)], prompt):
                apart = np.asarray(self._tokenizer.encode_rendered(more), np.int32)
                whole = np.concatenate([prompt, apart])
            results.append(self._labelled(whole.tolist(), len(prompt)))
        return results

    def _encoded(self, texts: Sequence[str], wheres: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the tokens of texts, without an end that the tokenizer puts after each."""
        encoded = self._tokenizer.encode_batch(texts, wheres)
        return [tokens[:-1] for tokens in encoded] if self._adds_end else encoded

    def _labelled(self, tokens: list[int], asked: int) -> Document:
        if self._labels == "end":
            made = ended_twice(tokens, self._end)
        else:
            if tokens[asked:][-1:] != [self._end]:
                tokens = [*tokens, self._end]
            made = (tokens, [*[UNSEEN] * asked, *tokens[asked:]])
        return tuple(np.asarray(one, np.int32) for one in made)
