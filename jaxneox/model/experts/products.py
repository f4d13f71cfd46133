"""Products of rows that are sorted by expert, each with its expert's matrix.

GPUs and TPUs have one program for all experts (`jax.lax.ragged_dot`). XLA for CPUs would multiply
every row by every expert's matrix and keep one product; there the rows are taken block by block,
each of one expert, so that the work is that of the rows.
"""
# R rows, X what is summed over, Y what comes out, E experts, b rows of a block

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxneox.model.experts.segments import starts
from jaxneox.model.layout import platform, varying_as

MOST_ROWS = 256
"""Rows of a block, at most: a product of so many keeps a core's units busy."""


class Products(Protocol):
    """The products of rows that are sorted by expert; what is after the experts' rows is zero."""

    def into(self, x_RX: jax.Array, w_EXY: jax.Array) -> jax.Array:
        """Multiply each row by its expert's matrix: [R, Y]."""

    def back(self, d_RY: jax.Array, w_EXY: jax.Array) -> jax.Array:
        """Multiply each row by its expert's matrix, transposed: [R, X]."""

    def outer(self, x_RX: jax.Array, d_RY: jax.Array) -> jax.Array:
        """Sum the outer products of each expert's rows, float32 [E, X, Y]."""


def products(counts_E: jax.Array, rows: int) -> Products:
    """Return the way of the platform that is traced for.

    Args:
        counts_E: int32, how many rows each expert has; they follow each other from the first on.
        rows: how many rows there are, at least as many.
    """
    if platform() == "cpu":
        return InBlocks(counts_E, rows)
    return Ragged(counts_E, rows)


class Ragged(NamedTuple):
    """The products by `jax.lax.ragged_dot`."""

    counts_E: jax.Array
    rows: int

    def into(self, x_RX: jax.Array, w_EXY: jax.Array) -> jax.Array:
        return self._filled(jax.lax.ragged_dot(x_RX, w_EXY, self.counts_E))

    def back(self, d_RY: jax.Array, w_EXY: jax.Array) -> jax.Array:
        return self.into(d_RY, jnp.swapaxes(w_EXY, 1, 2))

    def outer(self, x_RX: jax.Array, d_RY: jax.Array) -> jax.Array:
        numbers = jax.lax.RaggedDotDimensionNumbers(
            dot_dimension_numbers=(([0], [0]), ([], [])),
            lhs_ragged_dimensions=[0],
            rhs_group_dimensions=[],
        )
        return jax.lax.ragged_dot_general(
            x_RX, d_RY, self.counts_E, numbers, preferred_element_type=jnp.float32
        )

    def _filled(self, y_RY: jax.Array) -> jax.Array:
        return _without_rest(y_RY, self.counts_E)


class ExpertBlock(NamedTuple):
    """Rows of one expert: where they start, and how many of the block's are its own."""

    expert: jax.Array
    start: jax.Array
    length: jax.Array


class InBlocks(NamedTuple):
    """The products by blocks of rows, as many as the experts' rows fill."""

    counts_E: jax.Array
    rows: int

    def into(self, x_RX: jax.Array, w_EXY: jax.Array) -> jax.Array:
        return self._each(x_RX, w_EXY, "bx,xy->by", w_EXY.shape[2])

    def back(self, d_RY: jax.Array, w_EXY: jax.Array) -> jax.Array:
        return self._each(d_RY, w_EXY, "by,xy->bx", w_EXY.shape[1])

    def outer(self, x_RX: jax.Array, d_RY: jax.Array) -> jax.Array:
        x_RX, d_RY = self._longer(x_RX), self._longer(d_RY)

        def add(block: ExpertBlock, total_EXY: jax.Array) -> jax.Array:
            own = jnp.arange(self.size)[:, None] < block.length
            x = jnp.where(own, self._of(x_RX, block), 0)
            more = jnp.einsum(
                "bx,by->xy", x, self._of(d_RY, block), preferred_element_type=jnp.float32
            )
            return total_EXY.at[block.expert].add(more)

        shape = (self.counts_E.shape[0], x_RX.shape[1], d_RY.shape[1])
        return self._over_blocks(add, varying_as(jnp.zeros(shape, jnp.float32), x_RX, d_RY))

    @property
    def size(self) -> int:
        """How many rows a block has: no more than an expert's share of all, up to a power of 2."""
        share = -(-self.rows // self.counts_E.shape[0])
        return int(min(MOST_ROWS, 1 << (share - 1).bit_length()))

    def _each(self, x_RX: jax.Array, w_EXY: jax.Array, letters: str, width: int) -> jax.Array:
        """Write the product of one block after the other.

        The rows of a block after its expert's are of the next expert, whose block overwrites them.
        """
        longer = self._longer(x_RX)

        def write(block: ExpertBlock, out: jax.Array) -> jax.Array:
            w_XY = jax.lax.dynamic_index_in_dim(w_EXY, block.expert, keepdims=False)
            y = jnp.einsum(letters, self._of(longer, block), w_XY)
            return jax.lax.dynamic_update_slice_in_dim(out, y, block.start, 0)

        start = jnp.zeros((longer.shape[0], width), x_RX.dtype)
        out = self._over_blocks(write, varying_as(start, x_RX, w_EXY))
        return _without_rest(out[: self.rows], self.counts_E)

    def _longer(self, x: jax.Array) -> jax.Array:
        """Add rows, so that no block ends after the last."""
        return jnp.concatenate([x, jnp.zeros((self.size, x.shape[1]), x.dtype)])

    def _of(self, x: jax.Array, block: ExpertBlock) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, block.start, self.size, 0)

    def _over_blocks(
        self, step: Callable[[ExpertBlock, jax.Array], jax.Array], start: jax.Array
    ) -> jax.Array:
        blocks_E = -(-self.counts_E // self.size)
        first_E, rows_E = starts(blocks_E), starts(self.counts_E)

        def body(i: jax.Array, carry: jax.Array) -> jax.Array:
            e = jnp.searchsorted(first_E, i, side="right") - 1
            within = (i - first_E[e]) * self.size
            return step(ExpertBlock(e, rows_E[e] + within, self.counts_E[e] - within), carry)

        return jax.lax.fori_loop(jnp.zeros_like(first_E[0]), jnp.sum(blocks_E), body, start)


def _without_rest(y_RY: jax.Array, counts_E: jax.Array) -> jax.Array:
    """Put zeros in the rows after those of the experts."""
    used = jnp.arange(y_RY.shape[0]) < jnp.sum(counts_E)
    return jnp.where(used[:, None], y_RY, 0)
