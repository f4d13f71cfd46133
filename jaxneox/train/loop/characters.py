"""Perplexity by characters (`char_level_ppl`), which models of other tokenizers share.

With n tokens for each character, a mean loss of L nats for each token is L n for each character,
so that exp(L n) is comparable between tokenizers, as exp(L) is not. n is counted as NeoX does:
the S + 1 tokens of every row that is evaluated, over the characters of their text (megatron/
training.py, evaluate, and CharCounter). Special tokens and padding count as tokens and have no
characters; labels that are masked count too.
"""
# G global batch, S tokens of a sample

import math
from collections.abc import Iterable

from jaxneox.data import Loader, Tokenizer
from jaxneox.errors import UserError


def tokens_per_character(
    loader: Loader, tokenizer: Tokenizer | None, steps: Iterable[int]
) -> float:
    """Count the tokens of batches for each character of their text.

    Args:
        loader: reads them.
        tokenizer: turns tokens into text.
        steps: the numbers of the batches.

    Raises:
        UserError: there is no tokenizer, or the text has no characters.
    """
    if tokenizer is None:
        raise UserError(
            "char_level_ppl needs the text of tokens, and the tokenizer is not here: set "
            "tokenizer-type and vocab-file"
        )
    tokens = characters = 0
    for step in steps:
        rows_GS = loader.batch(step)
        tokens += rows_GS.size
        characters += sum(len(tokenizer.decode(row)) for row in rows_GS.tolist())
    if not characters:
        raise UserError("char_level_ppl: the tokens that are evaluated have no characters")
    return tokens / characters


def perplexity(loss: float, tokens: float) -> float:
    """Return the perplexity by characters.

    Args:
        loss: the mean of a token, in nats.
        tokens: of a character.
    """
    try:
        return math.exp(loss * tokens)
    except OverflowError:
        return math.inf
