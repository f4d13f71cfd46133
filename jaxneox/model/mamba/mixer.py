"""The selective state space of a layer, split over devices by its channels.

Of an input x it computes, with u and z as wide as the channels:

    u, z = x W_in, x W_gate;  u = silu(convolution(u));  (r, B, C) = u W_selection
    delta = softplus(r W_step + bias);  y = selective scan(u, delta, A, B, C) + D u
    out = (y silu(z)) W_out

Source: Gu and Dao 2023, and megatron/model/mamba/mamba.py of GPT-NeoX ea7aefd8. Each group of
channels selects r, B and C by itself. Where devices split the groups each has its own whole; where
they split the channels of one group, its selection is a sum over them.
"""
# B batch, T length, D hidden, C channels, G groups, J channels of a group, N state, R rank of steps
# S = R + 2 N, W width of the convolution

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxneox.config.mamba_schema import MambaConfig
from jaxneox.config.schema import ModelConfig
from jaxneox.model.context import Context
from jaxneox.model.layout import Layout
from jaxneox.model.mamba.convolution import convolved
from jaxneox.model.mamba.first_values import evenly, logarithms, step_biases
from jaxneox.model.mamba.selective_scan import ScanInputs, selective_scan
from jaxneox.model.param import exactly, initializer, ones, param, zeros
from jaxneox.model.product import into, out_of


class Mamba(nnx.Module):
    """The branch of a layer that is a selective state space."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        assert cfg.mamba is not None
        m, D, C, N = cfg.mamba, cfg.hidden_size, cfg.mamba.channels, cfg.mamba.state_size
        S, R, W = m.selection, m.step_rank, m.conv_width
        init, init_out = initializer(cfg.init.method, cfg), initializer(cfg.init.output_method, cfg)
        taps = evenly(W**-0.5)
        self.cfg = m
        self.input = param(rngs, ("embed", "channels"), init, D=D, C=C)
        self.gate = param(rngs, ("embed", "channels"), init, D=D, C=C)
        self.conv = param(rngs, ("conv", "channels"), taps, W=W, C=C)
        self.selection = param(rngs, ("channels", "selection"), init, C=C, S=S)
        self.step = param(rngs, ("step_rank", "channels"), evenly(R**-0.5), R=R, C=C)
        self.step_bias = param(rngs, ("channels",), step_biases, C=C)
        self.a_log = param(rngs, ("state", "channels"), logarithms, N=N, C=C)
        self.skip = param(rngs, ("channels",), ones, C=C)
        self.out = param(rngs, ("channels", "embed"), init_out, C=C, D=D)
        if m.selective_fp32:
            self.a_log, self.skip = exactly(self.a_log), exactly(self.skip)
        self.conv_bias = param(rngs, ("channels",), taps, C=C) if m.conv_bias else None
        self.input_bias = param(rngs, ("channels",), zeros, C=C) if m.bias else None
        self.gate_bias = param(rngs, ("channels",), zeros, C=C) if m.bias else None
        groups = ("channel_groups", "selection")
        self.selection_bias = param(rngs, groups, zeros, G=m.groups, S=S) if m.bias else None
        self.out_bias = param(rngs, ("embed",), zeros, D=D) if m.bias else None

    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        """Compute [B, T, D] without the output bias, a partial sum over the channels."""
        layout, documents_BT = context.layout, context.positions.documents
        u_BTC, z_BTC = self.entering(x_BTD, layout)
        if documents_BT is not None:
            documents_BT = jax.reshard(documents_BT, layout.activation("batch", None))
        u_BTC = self.convolved(u_BTC, documents=documents_BT)
        inputs = self.selected(u_BTC, layout)
        if documents_BT is not None:
            inputs = inputs._replace(kept_BT=_continues(documents_BT))
        return self.output(selective_scan(inputs), u_BTC, z_BTC, layout)

    def entering(self, x_BTD: jax.Array, layout: Layout) -> tuple[jax.Array, jax.Array]:
        """Compute what goes through the convolution and the scan, and what gates the result.

        The former is whole along the length on every device.
        """
        u_BTC, z_BTC = into(x_BTD, self.input[...]), into(x_BTD, self.gate[...])
        if self.input_bias is not None and self.gate_bias is not None:
            u_BTC += self.input_bias[...][None, None]
            z_BTC += self.gate_bias[...][None, None]
        return jax.reshard(u_BTC, layout.activation("batch", None, "channels")), z_BTC

    def convolved(
        self,
        u_BTC: jax.Array,
        before: jax.Array | None = None,
        documents: jax.Array | None = None,
    ) -> jax.Array:
        bias = None if self.conv_bias is None else self.conv_bias[...]
        return convolved(u_BTC, self.conv[...], bias, before, documents)

    def selected(self, u_BTC: jax.Array, layout: Layout) -> ScanInputs:
        """Compute from the channels what the scan reads."""
        lie, (R, N) = group_axes(self.cfg, layout), (self.cfg.step_rank, self.cfg.state_size)
        u_BTGJ = _split(u_BTC, 2, self.cfg.groups, layout, "batch", None, *lie)
        weight_GJS = _split(self.selection[...], 0, self.cfg.groups, layout, *lie, None)
        within = () if lie[1] is None else (lie[1],)
        partial_sum = layout.partial("batch", None, lie[0], None, over=within)
        s_BTGS = jnp.einsum("BTGJ,GJS->BTGS", u_BTGJ, weight_GJS, out_sharding=partial_sum)
        s_BTGS = jax.reshard(s_BTGS, layout.activation("batch", None, lie[0], None))
        if self.selection_bias is not None:
            bias_GS = jax.reshard(self.selection_bias[...], layout.activation(lie[0], None))
            s_BTGS += bias_GS[None, None]
        s_BTGS = jax.reshard(s_BTGS, layout.feeds("batch", None, lie[0], None, into=within))
        r_BTGR, b_BTGN, c_BTGN = jnp.split(s_BTGS, [R, R + N], axis=-1)
        step_RGJ = _split(self.step[...], 1, self.cfg.groups, layout, None, *lie)
        steps_BTGJ = jnp.einsum("BTGR,RGJ->BTGJ", r_BTGR, step_RGJ)
        bias_GJ = _split(self.step_bias[...], 0, self.cfg.groups, layout, *lie)
        delta_BTGJ = _softplus(steps_BTGJ, bias_GJ)
        a_NGJ = _split(self.a_log[...].astype(jnp.float32), 1, self.cfg.groups, layout, None, *lie)
        u, b, c = (x.astype(jnp.float32) for x in (u_BTGJ, b_BTGN, c_BTGN))
        return ScanInputs(u, delta_BTGJ, b, c, -jnp.exp(a_NGJ))

    def output(
        self, y_BTGJ: jax.Array, u_BTC: jax.Array, z_BTC: jax.Array, layout: Layout
    ) -> jax.Array:
        """Compute [B, T, D], a partial sum over the channels, from what the scan returns."""
        channels = layout.activation("batch", None, "channels")
        y_BTC = jnp.reshape(y_BTGJ, u_BTC.shape, out_sharding=channels)
        y_BTC, u_BTC = (jax.reshard(x, jax.typeof(z_BTC).sharding.spec) for x in (y_BTC, u_BTC))
        gated_BTC = _gated(y_BTC, u_BTC, z_BTC, self.skip[...])
        partial_sum = layout.partial("batch", "length", "embed", over="channels")
        return out_of(gated_BTC, self.out[...], partial_sum)


def group_axes(cfg: MambaConfig, layout: Layout) -> tuple[str | None, str | None]:
    """Return the logical axes of groups and of their channels, of which devices split one."""
    whole_groups = cfg.groups % layout.parts("channels") == 0
    return ("channels", None) if whole_groups else (None, "channels")


def _split(x: jax.Array, axis: int, groups: int, layout: Layout, *axes: str | None) -> jax.Array:
    """Take the channels along an axis apart into groups, so that `axes` are the logical axes."""
    shape = (*x.shape[:axis], groups, -1, *x.shape[axis + 1 :])
    return jnp.reshape(x, shape, out_sharding=layout.activation(*axes))


@partial(jax.checkpoint, prevent_cse=False)
def _softplus(steps_BTGJ: jax.Array, bias_GJ: jax.Array) -> jax.Array:
    """Compute step sizes, float32."""
    bias = bias_GJ.astype(jnp.float32)[None, None]
    return jax.nn.softplus(steps_BTGJ.astype(jnp.float32) + bias)


@partial(jax.checkpoint, prevent_cse=False)
def _gated(y_BTC: jax.Array, u_BTC: jax.Array, z_BTC: jax.Array, skip_C: jax.Array) -> jax.Array:
    """Compute `(y + D u) silu(z)` in float32, in the type of u."""
    y_BTC = y_BTC + u_BTC.astype(jnp.float32) * skip_C.astype(jnp.float32)[None, None]
    return (y_BTC * jax.nn.silu(z_BTC.astype(jnp.float32))).astype(u_BTC.dtype)


def _continues(documents_BT: jax.Array) -> jax.Array:
    """Return 0 where a document begins inside a row, else 1."""
    before = jnp.pad(documents_BT[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    return (before == documents_BT).astype(jnp.float32)
