"""The selective scan of Mamba: a linear recurrence whose coefficients depend on the tokens.

With a state h [N] for each channel, and per channel a step size delta, an input u and a vector A:

    h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t        y_t = C_t . h_t

B_t and C_t are those of the channel's group. Source: Gu and Dao 2023, "Mamba: linear-time sequence
modeling with selective state spaces", algorithm 2, with their plain product delta_t B_t.

A row is cut into chunks. Within a chunk all states are made at once, and of a whole row only those
at the starts of chunks are kept. The backward pass makes a chunk's states again from its first, and
runs the recurrence of the gradients, which is the same one from the end to the start. Everything is
float32.
"""
# B batch, T length, G groups, J channels of a group, N state; c chunks, Q positions of a chunk

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxneox.model.layout import dual, mesh_axes, platform, split_of, sums_on_devices
from jaxneox.model.product import is_derived

SEQUENTIAL_CHUNK = 16
"""Positions of a chunk where states are made one after another: they stay in a CPU's cache."""

PARALLEL_CHUNK = 128
"""Positions of a chunk where they are made in parallel."""


class ScanInputs(NamedTuple):
    """What the scan reads, float32, in the order of the text.

    Attributes:
        u_BTGJ: the input of each channel.
        delta_BTGJ: its step size, above 0.
        b_BTGN: how the input enters each number of the state.
        c_BTGN: how the state is read.
        a_NGJ: how fast the state decays, below 0; the same for all positions.
        kept_BT: 0 where a document begins, which forgets the state before it, else 1; None if
            every row is one document.
    """

    u_BTGJ: jax.Array
    delta_BTGJ: jax.Array
    b_BTGN: jax.Array
    c_BTGN: jax.Array
    a_NGJ: jax.Array
    kept_BT: jax.Array | None = None


def selective_scan(inputs: ScanInputs) -> jax.Array:
    """Compute y [B, T, G, J] from zero states, float32, laid out as `u_BTGJ`.

    Where b and c are whole on devices that split the channels, they have the type of inputs whose
    gradient is a partial sum.
    """
    if is_derived():
        return _one_by_one(inputs)
    return _scan(inputs)


def scan_with_state(inputs: ScanInputs) -> tuple[jax.Array, jax.Array]:
    """Compute y [B, T, G, J], and the state after the last position, [B, N, G, J].

    There are no gradients. A position whose delta is 0 leaves the state as it is.
    """
    y_BTGJ, _, last_BNGJ = _forward_on_devices(inputs)
    return y_BTGJ, last_BNGJ


def scan_step(inputs: ScanInputs, state_BNGJ: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Run one more position, T = 1: y [B, 1, G, J] and the new state."""
    u, delta, b, c = (jax.reshard(x, split_of(x))[:, 0] for x in inputs[:4])
    decay = jnp.exp(delta[:, None] * inputs.a_NGJ[None])
    state_BNGJ = decay * state_BNGJ + (delta * u)[:, None] * _over_channels(b)
    return jnp.sum(state_BNGJ * _over_channels(c), axis=1)[:, None], state_BNGJ


def _one_by_one(inputs: ScanInputs) -> jax.Array:
    """Compute the same, with derivatives by jax: in any mode, any number of times."""
    first = tuple(x[:, 0] for x in inputs[:4])
    state = jnp.zeros_like(first[0][:, None] * inputs.a_NGJ[None])

    def step(state_BNGJ: jax.Array, now: Any) -> tuple[jax.Array, jax.Array]:
        u, delta, b, c, kept_B = now
        if kept_B is not None:
            state_BNGJ = state_BNGJ * kept_B[:, None, None, None]
        one = ScanInputs(u[:, None], delta[:, None], b[:, None], c[:, None], inputs.a_NGJ)
        y_BTGJ, state_BNGJ = scan_step(one, state_BNGJ)
        return state_BNGJ, y_BTGJ[:, 0]

    over_time = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (*inputs[:4], inputs.kept_BT))
    return jnp.moveaxis(jax.lax.scan(jax.checkpoint(step), state, over_time)[1], 0, 1)


@jax.custom_vjp
def _scan(inputs: ScanInputs) -> jax.Array:
    return _forward_on_devices(inputs)[0]


def _scan_forward(inputs: ScanInputs) -> tuple[jax.Array, Any]:
    y_BTGJ, starts_cBNGJ, _ = _forward_on_devices(inputs)
    return y_BTGJ, (inputs, starts_cBNGJ)


def _scan_backward(saved: Any, d_y_BTGJ: jax.Array) -> tuple[ScanInputs]:
    inputs, starts_cBNGJ = saved
    batch, length, *channels = split_of(inputs.u_BTGJ)
    rows, groups = {*mesh_axes(batch)}, split_of(inputs.b_BTGN)[2]
    within = {*mesh_axes(channels[0]), *mesh_axes(channels[1])} - {*mesh_axes(groups)}
    whole = P(batch, length, *channels)
    of_groups = P(batch, length, groups, None, unreduced=within)
    outs = (whole, whole, of_groups, of_groups, P(None, *channels, unreduced=rows))
    local = partial(_backward, size=_chunk(inputs.u_BTGJ.shape[1]))
    found = sums_on_devices(local, (d_y_BTGJ, starts_cBNGJ, *_given(inputs)), outs)
    u, delta, b, c, a = (jax.reshard(d, dual(x)) for d, x in zip(found, inputs[:5], strict=True))
    kept = inputs.kept_BT
    return (ScanInputs(u, delta, b, c, a, None if kept is None else jnp.zeros_like(kept)),)


_scan.defvjp(_scan_forward, _scan_backward)


def _forward_on_devices(inputs: ScanInputs) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute y, the states at the starts of chunks, and the state at the end."""
    batch, length, *channels = split_of(inputs.u_BTGJ)
    state = P(batch, None, *channels)
    outs = (P(batch, length, *channels), P(None, *state), state)
    local = partial(_forward, size=_chunk(inputs.u_BTGJ.shape[1]))
    y, starts, last = sums_on_devices(local, _given(inputs), outs)
    return y, starts, last


def _given(inputs: ScanInputs) -> tuple[jax.Array, ...]:
    return tuple(x for x in inputs if x is not None)


def _chunk(length: int) -> int:
    return min(length, SEQUENTIAL_CHUNK if platform() == "cpu" else PARALLEL_CHUNK)


# What follows is the program of one device on its own rows and channels.


def _forward(*arrays: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    inputs = ScanInputs(*arrays)
    T, zero_BNGJ = inputs.u_BTGJ.shape[1], _zero(inputs)

    def run(h_BNGJ: jax.Array, chunk: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        part = _part(chunk, inputs.a_NGJ)
        states_QBNGJ, _ = _states(part, h_BNGJ)
        y_QBGJ = jnp.sum(states_QBNGJ * _over_channels(part.c_BTGN), axis=2)
        return states_QBNGJ[-1], (y_QBGJ, h_BNGJ)

    last, (y_cQBGJ, starts) = jax.lax.scan(run, zero_BNGJ, _chunks(inputs, size))
    return _rows(y_cQBGJ, T), starts, last


def _backward(
    d_y_BTGJ: jax.Array, starts_cBNGJ: jax.Array, *arrays: jax.Array, size: int
) -> tuple[jax.Array, ...]:
    """Compute the gradients of u, delta, b, c and a.

    Those of b and c are sums over this device's channels, that of a over its rows.
    """
    inputs = ScanInputs(*arrays)
    a_NGJ, T = inputs.a_NGJ, inputs.u_BTGJ.shape[1]

    def run(carry: tuple[jax.Array, jax.Array], now: Any) -> tuple[Any, Any]:
        """Go back through one chunk, whose last state has a gradient from the chunks after it."""
        later_BNGJ, d_a_NGJ = carry
        chunk, d_y_QBGJ, first_BNGJ = now
        part = _part(chunk, a_NGJ)
        u, delta, b = part.u_BTGJ, part.delta_BTGJ, _over_channels(part.b_BTGN)
        states, decays = _states(part, first_BNGJ)
        before = jnp.concatenate([first_BNGJ[None], states[:-1]])
        d_read = d_y_QBGJ[:, :, None] * _over_channels(part.c_BTGN)
        following = jnp.concatenate([decays[1:], jnp.ones_like(decays[:1])])
        d_states = _recurrence(following, d_read, later_BNGJ, reverse=True)
        d_exponent = d_states * before * decays
        d_entering = jnp.sum(d_states * b, axis=2)
        gradients = (
            d_entering * delta,
            d_entering * u + jnp.sum(d_exponent * a_NGJ[None, None], axis=2),
            _over_groups(d_states * (delta * u)[:, :, None]),
            _over_groups(d_y_QBGJ[:, :, None] * states),
        )
        d_a_NGJ += jnp.sum(d_exponent * delta[:, :, None], axis=(0, 1))
        return (decays[0] * d_states[0], d_a_NGJ), gradients

    d_y = _cut(d_y_BTGJ, size)
    start = _zero(inputs), _zero(inputs)[0]
    each = (_chunks(inputs, size), d_y, starts_cBNGJ)
    (_, d_a), gradients = jax.lax.scan(run, start, each, reverse=True)
    return *(_rows(x, T) for x in gradients), d_a


def _states(part: ScanInputs, first_BNGJ: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute the states after each position of a chunk, and the factors by which they decay.

    Both are [Q, B, N, G, J]. The arrays of `part` have their positions first.
    """
    decays = jnp.exp(part.delta_BTGJ[:, :, None] * part.a_NGJ[None, None])
    if part.kept_BT is not None:
        decays *= part.kept_BT[:, :, None, None, None]
    entering = (part.delta_BTGJ * part.u_BTGJ)[:, :, None] * _over_channels(part.b_BTGN)
    return _recurrence(decays, entering, first_BNGJ), decays


def _recurrence(
    factors_Q: jax.Array, terms_Q: jax.Array, first: jax.Array, *, reverse: bool = False
) -> jax.Array:
    """Compute x_t = factors_t x_{t-1} + terms_t for all t, from x before the first.

    In reverse t goes from the end to the start, and the x before it is t + 1's.
    """
    if platform() == "cpu":

        def step(x: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            x = now[0] * x + now[1]
            return x, x

        return jax.lax.scan(step, first, (factors_Q, terms_Q), reverse=reverse)[1]

    def joined(one: Any, two: Any) -> tuple[jax.Array, jax.Array]:
        return two[0] * one[0], two[0] * one[1] + two[1]

    begin = -1 if reverse else 0
    terms_Q = terms_Q.at[begin].add(factors_Q[begin] * first)
    return jax.lax.associative_scan(joined, (factors_Q, terms_Q), reverse=reverse)[1]


def _zero(inputs: ScanInputs) -> jax.Array:
    """Return a state of zeros, [B, N, G, J], typed as what this device computes."""
    return jnp.zeros_like(inputs.u_BTGJ[:, :1] * inputs.a_NGJ[None])


def _chunks(inputs: ScanInputs, size: int) -> tuple[jax.Array | None, ...]:
    """Cut what belongs to positions into chunks, [c, Q, B, *]: all inputs but `a_NGJ`."""
    kept = None if inputs.kept_BT is None else _cut(inputs.kept_BT, size)
    return *(_cut(x, size) for x in inputs[:4]), kept


def _part(chunk: Any, a_NGJ: jax.Array) -> ScanInputs:
    """Return one chunk as inputs whose positions come first, [Q, B, *]."""
    u, delta, b, c, kept = chunk
    return ScanInputs(u, delta, b, c, a_NGJ, kept)


def _cut(x_BT: jax.Array, size: int) -> jax.Array:
    """Cut [B, T, *] into chunks [c, Q, B, *]; zeros at the end leave the state as it is."""
    B, T, *rest = x_BT.shape
    x_BT = jnp.pad(x_BT, [(0, 0), (0, -T % size), *[(0, 0)] * len(rest)])
    return jnp.moveaxis(x_BT, 1, 0).reshape(-1, size, B, *rest)


def _rows(x_cQB: jax.Array, length: int) -> jax.Array:
    """Undo `_cut`: [c, Q, B, *] -> [B, T, *]."""
    return jnp.moveaxis(x_cQB.reshape(-1, *x_cQB.shape[2:]), 0, 1)[:, :length]


def _over_channels(x_GN: jax.Array) -> jax.Array:
    """Turn [*, G, N] into [*, N, G, 1], to be multiplied with states."""
    return jnp.swapaxes(x_GN, -1, -2)[..., None]


def _over_groups(x_NGJ: jax.Array) -> jax.Array:
    """Sum [*, N, G, J] over the channels of each group: [*, G, N]."""
    return jnp.swapaxes(jnp.sum(x_NGJ, axis=-1), -1, -2)
