"""Several documents in one row: where each begins, as the data says or by the tokens themselves.

By the tokens it is Megatron's rule (`get_ltor_masks_and_position_ids` of Megatron-LM, and the one
of that name in Megatron-core's GPTDataset): a document ends with its end-of-document token, and the
next begins after it.
"""
# B batch, T length; * any axes before the length

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Documents:
    """How the documents that share a row are kept apart.

    Attributes:
        eod: the token that ends each; None if the data says where they are.
        attention: no token sees another document.
        positions: positions are counted anew in each document.
    """

    eod: int | None
    attention: bool
    positions: bool

    def __call__(
        self, tokens: jax.Array, numbers: jax.Array | None = None
    ) -> tuple[jax.Array | None, jax.Array | None]:
        """Find the documents in whole rows of tokens [*, T].

        Args:
            tokens: int32.
            numbers: int32 [*, T], each token's document, if the data says it.

        Returns:
            `reset` and `documents` of `TokenPositions`, int32 [*, T] in the order of the row.
        """
        place = jax.lax.broadcasted_iota(
            jnp.int32, tokens.shape, tokens.ndim - 1, out_sharding=jax.typeof(tokens).sharding
        )
        # The last token wraps around to the first place: if it is `eod`, all numbers are one more.
        begins: jax.Array = (
            jnp.equal(jnp.roll(tokens, 1, axis=-1), jnp.int32(self.eod or 0))
            if numbers is None
            else jnp.not_equal(jnp.roll(numbers, 1, axis=-1), numbers)
        )
        first = jax.lax.cummax(jnp.where(begins, place, 0), axis=tokens.ndim - 1)
        documents = jnp.cumsum(begins, axis=-1, dtype=jnp.int32)
        return place - first if self.positions else None, documents if self.attention else None
