"""Several documents in one row: where each begins, found in the tokens themselves.

Megatron's rule (`get_ltor_masks_and_position_ids` of Megatron-LM, and the one of that name in
Megatron-core's GPTDataset): a document ends with its end-of-document token, and the next begins
after it.
"""
# B batch, T length; * any axes before the length

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Where(NamedTuple):
    """Where the tokens of a batch stand, in the layout's order of a sequence.

    `order_T` int32 [T] counts in the row: what is before what, and how far. `positions` int32
    [*, T] are what embeddings and rotations count by instead, if given. `documents` int32 [*, T]
    are numbers of documents, of which none sees another, if given.
    """

    order_T: jax.Array
    positions: jax.Array | None = None
    documents: jax.Array | None = None

    @property
    def counted(self) -> jax.Array:
        """[T] or [*, T]"""
        return self.order_T if self.positions is None else self.positions

    @property
    def of_rows(self) -> tuple[jax.Array | None, jax.Array | None]:
        """What each row has of its own."""
        return self.positions, self.documents


@dataclass(frozen=True)
class Documents:
    """What begins anew after each token `eod`: what a token sees, and the count of positions."""

    eod: int
    attention: bool
    positions: bool

    def __call__(self, tokens: jax.Array) -> tuple[jax.Array | None, jax.Array | None]:
        """Whole rows [*, T] -> `positions` and `documents` of `Where`, in the rows' order."""
        place = jax.lax.broadcasted_iota(
            jnp.int32, tokens.shape, tokens.ndim - 1, out_sharding=jax.typeof(tokens).sharding
        )
        # What wraps around to the first place only makes all numbers of the row one more.
        begins = jnp.roll(tokens, 1, axis=-1) == self.eod
        first = jax.lax.cummax(jnp.where(begins, place, 0), axis=tokens.ndim - 1)
        documents = jnp.cumsum(begins, axis=-1, dtype=jnp.int32)
        return place - first if self.positions else None, documents if self.attention else None
