"""Several documents in one row: where each begins, found in the tokens themselves.

Megatron's rule (`get_ltor_masks_and_position_ids` of Megatron-LM, and the one of that name in
Megatron-core's GPTDataset): a document ends with its end-of-document token, and the next begins
after it.
"""
# B batch, T length; * any axes before the length

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Documents:
    """How the documents that share a row are kept apart; each ends with a token `eod`.

    Attributes:
        eod: the end-of-document token.
        attention: no token sees another document.
        positions: positions are counted anew in each document.
    """

    eod: int
    attention: bool
    positions: bool

    def __call__(self, tokens: jax.Array) -> tuple[jax.Array | None, jax.Array | None]:
        """Find the documents in whole rows of tokens [*, T].

        Returns:
            `reset` and `documents` of `TokenPositions`, int32 [*, T] in the order of the row.
        """
        place = jax.lax.broadcasted_iota(
            jnp.int32, tokens.shape, tokens.ndim - 1, out_sharding=jax.typeof(tokens).sharding
        )
        # The last token wraps around to the first place: if it is `eod`, all numbers are one more.
        begins = jnp.roll(tokens, 1, axis=-1) == self.eod
        first = jax.lax.cummax(jnp.where(begins, place, 0), axis=tokens.ndim - 1)
        documents = jnp.cumsum(begins, axis=-1, dtype=jnp.int32)
        return place - first if self.positions else None, documents if self.attention else None
