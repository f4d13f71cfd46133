"""Rows that devices send to each other, each row to the device that it says."""
# P devices of the exchange, R rows that a device can receive, A rows that it has
# C rows that it sends to one device at most, X width of a row

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class RowExchange:
    """The exchange between `count` devices along a mesh axis, inside the program of each of them.

    GPUs and TPUs send the rows that there are. XLA for CPUs knows no such collective; there each
    device sends all others the same number of rows, as many as there may be for one of them.
    """

    axis: str
    count: int

    def gathered(self, x: jax.Array) -> jax.Array:
        """Collect what all devices have: [P, *]."""
        return jax.lax.all_gather(x, self.axis)

    def number(self) -> jax.Array:
        """Return which of the devices this is."""
        return jax.lax.axis_index(self.axis)

    def padded(self, rows_PCX: jax.Array) -> jax.Array:
        """Send each device its part of the rows; returns [P, C, X], a part from each device."""
        return jax.lax.all_to_all(rows_PCX, self.axis, 0, 0)

    def ragged(self, rows_AX: jax.Array, sizes_PP: jax.Array, length: int) -> jax.Array:
        """Send each device a part of the rows, which follow each other.

        Args:
            rows_AX: the rows, those for the first device first.
            sizes_PP: how many rows each device sends to each.
            length: how many rows a device can receive.

        Returns:
            [length, X], the parts from all devices one after the other.
        """
        own = self.number()
        sends_P, receives_P = sizes_PP[own], sizes_PP[:, own]
        before_PP = jnp.cumsum(sizes_PP, axis=0) - sizes_PP  # of earlier devices, at each receiver
        empty = jnp.zeros((length, rows_AX.shape[1]), rows_AX.dtype)
        missing = tuple(sorted(jax.typeof(rows_AX).mat.varying - jax.typeof(empty).mat.varying))
        return jax.lax.ragged_all_to_all(
            rows_AX,
            jax.lax.pcast(empty, missing, to="varying") if missing else empty,
            jnp.cumsum(sends_P) - sends_P,
            sends_P,
            before_PP[own],
            receives_P,
            axis_name=self.axis,
        )
