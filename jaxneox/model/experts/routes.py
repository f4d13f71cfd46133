"""The way of rows to their experts and back, where the experts are on the device or on several."""
# P devices that split the experts, E experts of all of them, L experts of one
# A choices of a device's tokens, R rows that it can receive, C rows from each device, X any width

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxneox.model.experts.segments import moved, origins, starts
from jaxneox.model.layout import RowExchange, platform


class Routes(Protocol):
    """Brings rows that are sorted by expert to their experts, and others back."""

    @property
    def counts(self) -> jax.Array:
        """How many rows each expert of this device has: int32 [L]."""

    @property
    def rows(self) -> int:
        """How many rows the device has room for, R."""

    def send(self, rows_AX: jax.Array) -> jax.Array:
        """Send rows to their experts: [R, X], sorted by the experts of this device."""

    def bring(self, rows_RX: jax.Array) -> jax.Array:
        """Bring rows back from the experts to where they were sent from: [A, X]."""


class Staying(NamedTuple):
    """All experts are on the device."""

    counts: jax.Array
    rows: int

    def send(self, rows_AX: jax.Array) -> jax.Array:
        return rows_AX

    def bring(self, rows_RX: jax.Array) -> jax.Array:
        return rows_RX


class Exchanged(NamedTuple):
    """Each device has some of the experts, and rows are exchanged.

    Attributes:
        exchange: between the devices.
        counts_PE: how many rows each device has for each expert.
        choices: how many rows there are on each device, A.
        part: how many rows one device may send to another, C. Any number of tokens may choose the
            experts of one device, so that none is ever left out.
        exact: whether the exchange sends the rows that there are, instead of C from each device.
    """

    exchange: RowExchange
    counts_PE: jax.Array
    choices: int
    part: int
    exact: bool

    @property
    def counts(self) -> jax.Array:
        return jnp.sum(self._received_PL, axis=0)

    @property
    def rows(self) -> int:
        return self.exchange.count * self.part

    def send(self, rows_AX: jax.Array) -> jax.Array:
        if self.exact:
            arrived = self.exchange.ragged(rows_AX, self._sizes_PP, self.rows)
        else:
            parts = self._own_sizes_P
            padded = moved(rows_AX, self._origins(self._parts, parts, starts(parts), self.choices))
            arrived = self._exchange_parts(padded)
        counts_LP = self._received_PL.T.reshape(-1)
        return moved(
            arrived, self._origins(starts(counts_LP), counts_LP, self._arrival_PL.T, self.rows)
        )

    def bring(self, rows_RX: jax.Array) -> jax.Array:
        counts_PL = self._received_PL
        sorted_LP = starts(counts_PL.T.reshape(-1)).reshape(counts_PL.T.shape)
        arrived = moved(rows_RX, self._origins(self._arrival_PL, counts_PL, sorted_LP.T, self.rows))
        if self.exact:
            return self.exchange.ragged(arrived, self._sizes_PP.T, self.choices)
        parts = self._own_sizes_P
        start = self._origins(starts(parts), parts, self._parts, self.rows, self.choices)
        return moved(self._exchange_parts(arrived), start)

    @property
    def _sizes_PP(self) -> jax.Array:
        """How many rows each device sends to each."""
        count = self.exchange.count
        return jnp.sum(self.counts_PE.reshape(count, count, -1), axis=2)

    @property
    def _own_sizes_P(self) -> jax.Array:
        return self._sizes_PP[self.exchange.number()]

    @property
    def _received_PL(self) -> jax.Array:
        """How many rows arrive from each device for each expert of this one."""
        count = self.exchange.count
        return self.counts_PE.reshape(count, count, -1)[:, self.exchange.number()]

    @property
    def _arrival_PL(self) -> jax.Array:
        """Where they start as they arrive."""
        counts_PL = self._received_PL
        if self.exact:
            return starts(counts_PL.reshape(-1)).reshape(counts_PL.shape)
        return self._parts[:, None] + jnp.cumsum(counts_PL, axis=1) - counts_PL

    @property
    def _parts(self) -> jax.Array:
        """Where the padded parts start."""
        return jnp.arange(self.exchange.count, dtype=jnp.int32) * self.part

    def _exchange_parts(self, rows_RX: jax.Array) -> jax.Array:
        parts = rows_RX.reshape(self.exchange.count, self.part, -1)
        return self.exchange.padded(parts).reshape(rows_RX.shape)

    def _origins(
        self,
        after: jax.Array,
        counts: jax.Array,
        before: jax.Array,
        places: int,
        length: int | None = None,
    ) -> jax.Array:
        """Tell where rows were among `places` before a move to `length` places, R unless given."""
        starts_s, counts_s, before_s = (x.reshape(-1) for x in (after, counts, before))
        whole = self.rows if length is None else length
        return origins(starts_s, counts_s, before_s, whole, places)


def routes(
    counts_PE: jax.Array,
    choices: int,
    part: int,
    exchange: RowExchange | None,
) -> Routes:
    """Return the way of a device's rows.

    Args:
        counts_PE: how many rows each device of the exchange has for each expert.
        choices: how many rows it has, A; those of no expert are last.
        part: how many of them may be for the experts of one device.
        exchange: between the devices that split the experts, or None.
    """
    if exchange is None:
        return Staying(counts_PE[0], choices)
    return Exchanged(exchange, counts_PE, choices, part, platform() != "cpu")
