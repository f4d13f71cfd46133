"""Rewards of texts by a reward model, in batches of similar length."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxneox.config.schema import ModelConfig
from jaxneox.data import Tokenizer
from jaxneox.errors import UserError
from jaxneox.infer.generate import context
from jaxneox.infer.scoring import Request, Scorer
from jaxneox.infer.stream import check_text
from jaxneox.model import Params
from jaxneox.parallel.compiler_options import jit_on


class RewardScorer(Scorer):
    """Reads a reward model's value after the last token of each text.

    The batches are those of `Scorer`, as if one more token were scored after each text. What pads a
    row comes after its text, which no token of the text sees.
    """

    def rewards(
        self,
        params: Params,
        texts: Sequence[Sequence[int]],
        on_done: Callable[[int], object] | None = None,
    ) -> NDArray[np.float32]:
        """Compute the rewards of texts, tokens of which none is empty; float32 [texts].

        Args:
            params: parameters by dotted name.
            texts: the tokens of each.
            on_done: called with how many more texts are done.

        Raises:
            UserError: a token is not in the vocabulary, or the model gives no numbers.
        """
        requests = [Request([*tokens, tokens[-1]], len(tokens)) for tokens in texts]
        found = [one.logprobs[0] for one in self(params, requests, on_done)]
        for number, value in enumerate(found):
            if not math.isfinite(value):
                raise UserError(
                    f"the reward of text {number} is {value}: the model's numbers overflow, or its "
                    "weights are damaged; try float32, or an earlier step"
                )
        return np.array(found, np.float32)

    @cached_property
    def _scores(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        def values(
            params: Params, tokens_BT: jax.Array, positions_BC: jax.Array, labels_BC: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            everywhere = self.model.layout.activation(None, None)
            values_BC = self.model.values_at(params, tokens_BT, positions_BC)
            values_BC = jax.reshard(values_BC, everywhere)
            return values_BC, jnp.zeros_like(values_BC, bool)

        return jit_on(self.mesh, values)


def with_end(text: str, tokenizer: Tokenizer | None) -> list[int]:
    """Encode a text, with the end-of-document token after it, at which its reward is read.

    Raises:
        UserError: there is no tokenizer, or it has no such token.
    """
    end = end_of(tokenizer)
    check_text(text, "a text")
    assert tokenizer is not None
    return [*tokenizer.encode(text), end]


def end_of(tokenizer: Tokenizer | None) -> int:
    """Return the token at which the reward of a text is read; errors as of `with_end`."""
    if tokenizer is None:
        raise UserError("the checkpoint has no tokenizer; give texts as lists of tokens in Python")
    if tokenizer.eod is None:
        raise UserError(
            "the tokenizer names no end-of-document token, at which a text's reward is read; give "
            "lists of tokens in Python, or set eod-token in the run's YAML and train on"
        )
    return tokenizer.eod


def check_length(name: str, tokens: Sequence[int], cfg: ModelConfig) -> None:
    """Refuse a text without tokens, and one that is longer than the model's context.

    Args:
        name: what an error calls the text.
        tokens: the text's.
        cfg: the model.
    """
    if not tokens:
        raise UserError(f"{name}: has no token after which its reward could be read")
    if len(tokens) > (room := context(cfg)):
        raise UserError(
            f"{name}: has {len(tokens):,} tokens, and the model's context is {room:,}; shorten it"
        )
