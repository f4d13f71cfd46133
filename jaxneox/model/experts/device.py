"""The experts of one device: its program forward and backward.

Forward, each row of x goes to the devices of its experts and the experts' outputs come back;
backward, the gradients of the outputs go there, and those of the rows come back. So a layer sends
tokens four times.
"""
# B batch, T length, D hidden, k choices of a token, E experts, F inner width
# A choices of a device's tokens, R rows of its experts, P devices that split the experts

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxneox.model.experts.products import products
from jaxneox.model.experts.routes import Routes, routes
from jaxneox.model.experts.segments import moved, sort_choices
from jaxneox.model.layout import Layout


class MixtureSettings(NamedTuple):
    """How the experts compute; static while it is traced.

    Attributes:
        experts: how many there are.
        activation: the experts' function.
        layout: how arrays lie on the devices.
        capacity: how many tokens of a row an expert takes at most; None for any number.
    """

    experts: int
    activation: Callable[[jax.Array], jax.Array]
    layout: Layout
    capacity: int | None = None


class Saved(NamedTuple):
    """What a device keeps for the backward pass, each with axes for the devices before its own.

    Attributes:
        order: int32 [A], the choices by expert.
        counts: int32 [P, E], how many choose each expert, on all devices that split them.
        rows: the rows of the device's experts, [R, D].
        out: the experts' outputs for its tokens [A, D], a partial sum over the inner width.
        up: what came out of the first matrix, [R, F].
        gate: what came out of the gate's, if there is one.
    """

    order: jax.Array
    counts: jax.Array
    rows: jax.Array
    out: jax.Array
    up: jax.Array
    gate: jax.Array | None = None


@dataclass(frozen=True)
class Device:
    """The programs of one device; all arrays are its parts."""

    settings: MixtureSettings

    def forward(
        self,
        x_BTD: jax.Array,
        choices_BTk: jax.Array,
        weights_BTk: jax.Array,
        *matrices: jax.Array,
    ) -> tuple[jax.Array, ...]:
        """Compute the sums of the experts' outputs [B, T, D], and what `Saved` has."""
        *into, down = matrices
        exchange = self.settings.layout.exchange
        order_A, counts_E = sort_choices(choices_BTk.reshape(-1), self.settings.experts)
        counts_PE = counts_E[None] if exchange is None else exchange.gathered(counts_E)
        way = self._way(choices_BTk.shape, counts_PE)
        rows_RD = way.send(_by_choice(x_BTD, order_A, choices_BTk.shape[2]))
        dot = products(way.counts, way.rows)
        before_RF = [dot.into(rows_RD, w) for w in into]
        out_AD = way.bring(dot.into(self._inner(*before_RF), down))
        each_BTkD = out_AD[_inverse(order_A)].reshape(*choices_BTk.shape, -1)
        y_BTD = jnp.sum(each_BTkD.astype(jnp.float32) * weights_BTk[..., None], axis=2)
        kept = (order_A, counts_PE, rows_RD, out_AD[None], *before_RF)
        return y_BTD.astype(x_BTD.dtype), *(x[None, None] for x in kept)

    def backward(
        self,
        added_up: Sequence[tuple[str, ...]],
        d_BTD: jax.Array,
        weights_BTk: jax.Array,
        *arrays: jax.Array,
    ) -> tuple[jax.Array, ...]:
        """Compute the gradients of x, of the weights and of the matrices.

        Args:
            added_up: over which mesh axes the gradient of each matrix is added up.
            d_BTD: the gradient of the sums.
            weights_BTk: those of the choices.
            arrays: the matrices, and what `Saved` has.
        """
        (*into, down), saved = arrays[: len(added_up)], arrays[len(added_up) :]
        order_A, counts_PE, rows_RD, out_AD, *before_RF = (x[0, 0] for x in saved)
        way, k = self._way(weights_BTk.shape, counts_PE), weights_BTk.shape[2]
        dot, back_A = products(way.counts, way.rows), _inverse(order_A)
        d_AD = _by_choice(d_BTD, order_A, k).astype(jnp.float32)
        d_weights_A = jnp.sum(d_AD * out_AD[0].astype(jnp.float32), axis=1)
        weights_A = weights_BTk.reshape(-1)[order_A]
        d_RD = way.send((d_AD * weights_A[:, None]).astype(d_BTD.dtype))
        inner_RF, pull = jax.vjp(self._inner, *before_RF)
        d_before_RF = pull(dot.back(d_RD, down))
        each_RD = [dot.back(d, w) for d, w in zip(d_before_RF, into, strict=True)]
        d_each_BTkD = way.bring(sum(each_RD[1:], each_RD[0]))[back_A].reshape(
            *weights_BTk.shape, -1
        )
        d_x_BTD = jnp.sum(d_each_BTkD.astype(jnp.float32), axis=2).astype(d_BTD.dtype)
        d_w = [*(dot.outer(rows_RD, d) for d in d_before_RF), dot.outer(inner_RF, d_RD)]
        whole = [
            jax.lax.psum(d, axes) if axes else d for d, axes in zip(d_w, added_up, strict=True)
        ]
        of_type = (d.astype(w.dtype) for d, w in zip(whole, (*into, down), strict=True))
        return d_x_BTD, d_weights_A[back_A].reshape(weights_BTk.shape), *of_type

    def _way(self, choices: tuple[int, ...], counts_PE: jax.Array) -> Routes:
        """Return the way of the rows of `choices` [B, T, k]."""
        batch, length, k = choices
        exchange, capacity = self.settings.layout.exchange, self.settings.capacity
        if exchange is None:
            return routes(counts_PE, batch * length * k, 0, None)
        here = self.settings.experts // exchange.count
        part = batch * length * min(k, here)
        if capacity is not None:
            part = min(part, batch * capacity * here)
        return routes(counts_PE, batch * length * k, part, exchange)

    def _inner(self, up_RF: jax.Array, gate_RF: jax.Array | None = None) -> jax.Array:
        """Compute what the last matrix reads from what came out of the first ones."""
        if gate_RF is None:
            return self.settings.activation(up_RF)
        return self.settings.activation(gate_RF) * up_RF


def _by_choice(x_BTD: jax.Array, order_A: jax.Array, k: int) -> jax.Array:
    """Repeat the rows of tokens for their choices, in the order of experts: [A, D]."""
    return moved(x_BTD.reshape(-1, x_BTD.shape[2]), order_A // k)


def _inverse(order_A: jax.Array) -> jax.Array:
    """Return where each choice stands in the order."""
    places = jnp.arange(order_A.shape[0], dtype=jnp.int32)
    return jnp.zeros_like(order_A).at[order_A].set(places)
