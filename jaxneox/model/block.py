"""One layer: a transformer's in three styles, or a selective state space.

They differ in what is added to the residual stream, and in where the sums over devices are made: a
branch ends in a partial sum, which one reduction completes before a bias may be added.
"""
# B batch, T length, D hidden

from enum import IntEnum
from typing import Protocol

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxneox.config.layer_schema import LayerKind
from jaxneox.config.schema import ModelConfig
from jaxneox.model.attention import Attention
from jaxneox.model.context import Context
from jaxneox.model.dropout import dropout
from jaxneox.model.layout import Layout
from jaxneox.model.mamba.mixer import Mamba
from jaxneox.model.mlp import Mlp
from jaxneox.model.norms import norm
from jaxneox.model.product import PRODUCT


class DropoutPlace(IntEnum):
    """The places in a layer where dropout masks are drawn; a mask depends on its place's number."""

    ATTENTION_WEIGHTS = 0
    ATTENTION_OUTPUT = 1
    MLP_OUTPUT = 2
    MLP_INSIDE = 3


Sums = dict[str, jax.Array]
"""What a layer adds up over its tokens by name, float32, the same on all devices.

Such numbers add up exactly over micro-batches, however a mesh cuts them.
"""


class Mixer(Protocol):
    """A branch that lets tokens see others: attention or a state space, cached or not."""

    out_bias: nnx.Param | None

    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        """Compute [B, T, D] without the output bias, a partial sum over the devices."""


class Block(nnx.Module):
    """A layer: what it adds to the residual stream."""

    def __call__(self, x_BTD: jax.Array, context: Context) -> tuple[jax.Array, Sums]:
        """Compute the layer.

        Args:
            x_BTD: the residual stream.
            context: what the layers share.

        Returns:
            The stream after the layer, [B, T, D], laid out as before; and what the layer adds up
            besides, by name.
        """
        raise NotImplementedError


class AttentionBlock(Block):
    """The parts that every style of attention and an MLP has; a subclass combines them."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        self.norm1 = norm(cfg.norm, ("embed",), rngs, D=cfg.hidden_size)
        self.attention: Mixer = Attention(cfg, rngs)
        self.norm2: nnx.Module | None = (  # None where one norm feeds both branches
            None if cfg.shared_norm else norm(cfg.norm, ("embed",), rngs, D=cfg.hidden_size)
        )
        self.mlp = Mlp(cfg, rngs)
        self.dropout_rate = cfg.hidden_dropout

    def _attention(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        return self.attention(x_BTD, context.at(DropoutPlace.ATTENTION_WEIGHTS))

    def _mlp(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        return self.mlp(x_BTD, context.at(DropoutPlace.MLP_INSIDE))

    def _dropout(self, x_BTD: jax.Array, context: Context, place: DropoutPlace) -> jax.Array:
        return dropout(x_BTD, self.dropout_rate, context.at(place).noise)


class ParallelBlock(AttentionBlock):
    """`x + attention(norm1(x)) + mlp(norm2(x))`.

    Both branches share the layer's ONE reduction, and one in the backward pass. Dropout masks each
    branch, a product that a partial sum cannot enter, so that each takes a reduction of its own.
    """

    def __call__(self, x_BTD: jax.Array, context: Context) -> tuple[jax.Array, Sums]:
        layout = context.layout
        into_attention_BTD, into_mlp_BTD = self._inputs(x_BTD, layout)
        partial_attention_BTD = self._attention(into_attention_BTD, context)
        partial_mlp_BTD = self._mlp(into_mlp_BTD, context)
        if context.noise is None or self.dropout_rate == 0.0:
            y_BTD = _reduce(partial_attention_BTD + partial_mlp_BTD, layout)
            y_BTD = _add(_add(x_BTD + y_BTD, self.attention.out_bias), self.mlp.down_bias)
            return context.tap("residual", y_BTD), {}
        attention_BTD = _completed(partial_attention_BTD, self.attention.out_bias, layout)
        mlp_BTD = _completed(partial_mlp_BTD, self.mlp.down_bias, layout)
        y_BTD = (
            x_BTD
            + self._dropout(attention_BTD, context, DropoutPlace.ATTENTION_OUTPUT)
            + self._dropout(mlp_BTD, context, DropoutPlace.MLP_OUTPUT)
        )
        return context.tap("residual", y_BTD), {}

    def _inputs(self, x_BTD: jax.Array, layout: Layout) -> tuple[jax.Array, jax.Array]:
        """Normalise the input of each branch."""
        both = ("kv_heads", "mlp")
        if self.norm2 is None:
            shared_BTD = _gather(self.norm1(x_BTD), layout, into=both)
            return shared_BTD, shared_BTD
        # Each device computes both norms of all that it feeds, so that one gradient is summed.
        shared_BTD = _gather(x_BTD, layout, into=both)
        return self.norm1(shared_BTD), self.norm2(shared_BTD)


class SequentialBlock(AttentionBlock):
    """`h = x + attention(norm1(x)); h + mlp(norm2(h))`."""

    def __call__(self, x_BTD: jax.Array, context: Context) -> tuple[jax.Array, Sums]:
        layout = context.layout
        assert self.norm2 is not None  # NeoX shares a norm in parallel layers only
        into_attention_BTD = _gather(self.norm1(x_BTD), layout, into="kv_heads")
        partial_BTD = self._attention(into_attention_BTD, context)
        attention_BTD = _completed(partial_BTD, self.attention.out_bias, layout)
        h_BTD = x_BTD + self._dropout(attention_BTD, context, DropoutPlace.ATTENTION_OUTPUT)
        partial_BTD = self._mlp(_gather(self.norm2(h_BTD), layout, into="mlp"), context)
        mlp_BTD = _completed(partial_BTD, self.mlp.down_bias, layout)
        y_BTD = h_BTD + self._dropout(mlp_BTD, context, DropoutPlace.MLP_OUTPUT)
        return context.tap("residual", y_BTD), {}


class AttentionlessBlock(AttentionBlock):
    """`x + mlp(norm(x))`, with the norm that the parallel style gives the MLP, and no dropout.

    GPT-NeoX computes this for a parallel residual where the MLP has no output bias: the call that
    would add the bias and the attention, and drop some of it, is left out
    (megatron/model/transformer.py, ParallelTransformerLayer.forward at ea7aefd8).
    """

    def __call__(self, x_BTD: jax.Array, context: Context) -> tuple[jax.Array, Sums]:
        layout = context.layout
        norm2 = self.norm1 if self.norm2 is None else self.norm2
        partial_BTD = self._mlp(_gather(norm2(x_BTD), layout, into="mlp"), context)
        y_BTD = _add(x_BTD + _reduce(partial_BTD, layout), self.mlp.down_bias)
        return context.tap("residual", y_BTD), {}


class MambaBlock(Block):
    """`x + mamba(norm1(x))`, a selective state space alone, and no dropout.

    Source: megatron/model/mamba/mamba.py of GPT-NeoX ea7aefd8 (ParallelMambaResidualLayer).
    """

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        self.norm1 = norm(cfg.norm, ("embed",), rngs, D=cfg.hidden_size)
        self.mamba: Mixer = Mamba(cfg, rngs)

    def __call__(self, x_BTD: jax.Array, context: Context) -> tuple[jax.Array, Sums]:
        layout = context.layout
        partial_BTD = self.mamba(_gather(self.norm1(x_BTD), layout, into="channels"), context)
        y_BTD = x_BTD + _completed(partial_BTD, self.mamba.out_bias, layout)
        return context.tap("residual", y_BTD), {}


def make_block(cfg: ModelConfig, kind: LayerKind, rngs: nnx.Rngs) -> Block:
    """Make a layer of a kind, in the style that the configuration has."""
    if kind == "mamba":
        return MambaBlock(cfg, rngs)
    if kind != "dense":
        raise NotImplementedError(kind)
    if cfg.attention_dropped:
        return AttentionlessBlock(cfg, rngs)
    return ParallelBlock(cfg, rngs) if cfg.parallel_residual else SequentialBlock(cfg, rngs)


def _gather(x_BTD: jax.Array, layout: Layout, into: str | tuple[str, ...]) -> jax.Array:
    return jax.reshard(x_BTD, layout.feeds("batch", "length", "embed", into=into))


def _reduce(partial_BTD: jax.Array, layout: Layout) -> jax.Array:
    y_BTD = jax.reshard(partial_BTD, layout.activation("batch", "stream", "embed"))
    return checkpoint_name(y_BTD, PRODUCT)


def _completed(partial_BTD: jax.Array, bias: nnx.Param | None, layout: Layout) -> jax.Array:
    """Sum a branch's output over the devices, and only then add its bias."""
    return _add(_reduce(partial_BTD, layout), bias)


def _add(x_BTD: jax.Array, bias: nnx.Param | None) -> jax.Array:
    return x_BTD if bias is None else x_BTD + bias[...][None, None]
