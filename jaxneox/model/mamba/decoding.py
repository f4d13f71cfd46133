"""A mixer with a state: what it keeps of a prompt, and how it goes on from there."""
# B rows, T length of the prompts, D hidden, C channels, K = width of the convolution - 1
# N state, G groups, J channels of a group

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxneox.model.context import Context
from jaxneox.model.layout import Layout
from jaxneox.model.mamba.convolution import last_inputs
from jaxneox.model.mamba.mixer import Mamba
from jaxneox.model.mamba.selective_scan import scan_step, scan_with_state


class Advanced(NamedTuple):
    """The result of a mixer, [B, T, D] as it returns it, and what it keeps of the tokens."""

    out_BTD: jax.Array
    tail_BKC: jax.Array
    state_BNGJ: jax.Array


Advance = Callable[[int, Mamba, jax.Array], jax.Array]
"""(place among the mamba layers, the mixer, x [B, T, D]) -> the mixer's result, [B, T, D]."""


class CachedMamba:
    """The mixer of one layer, with a way to run it that keeps its state."""

    def __init__(self, place: int, mamba: Mamba, advance: Advance):
        self.out_bias = mamba.out_bias
        self._place, self._mamba, self._advance = place, mamba, advance

    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        return self._advance(self._place, self._mamba, x_BTD)


def run_prompt(mamba: Mamba, x_BTD: jax.Array, lengths_B: jax.Array, layout: Layout) -> Advanced:
    """Run prompts of these lengths; what stands behind their ends leaves the state as it is."""
    lengths_B = jax.reshard(lengths_B, layout.activation("batch"))
    u_BTC, z_BTC = mamba.entering(x_BTD, layout)
    tail_BKC = last_inputs(u_BTC, lengths_B, mamba.cfg.conv_width)
    u_BTC = mamba.convolved(u_BTC)
    inputs = mamba.selected(u_BTC, layout)
    within_BT = jnp.arange(u_BTC.shape[1])[None] < lengths_B[:, None]
    delta = inputs.delta_BTGJ * within_BT.astype(jnp.float32)[..., None, None]
    y_BTGJ, state_BNGJ = scan_with_state(inputs._replace(delta_BTGJ=delta))
    return Advanced(mamba.output(y_BTGJ, u_BTC, z_BTC, layout), tail_BKC, state_BNGJ)


def run_token(
    mamba: Mamba, x_BTD: jax.Array, tail_BKC: jax.Array, state_BNGJ: jax.Array, layout: Layout
) -> Advanced:
    """Run one more token of each row, T = 1."""
    u_BTC, z_BTC = mamba.entering(x_BTD, layout)
    seen_BTC = jnp.concatenate([tail_BKC, u_BTC], axis=1)
    u_BTC = mamba.convolved(u_BTC, before=tail_BKC)
    y_BTGJ, state_BNGJ = scan_step(mamba.selected(u_BTC, layout), state_BNGJ)
    return Advanced(mamba.output(y_BTGJ, u_BTC, z_BTC, layout), seen_BTC[:, 1:], state_BNGJ)
