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
from jaxneox.model.context import Context, Sums
from jaxneox.model.dropout import dropout
from jaxneox.model.experts import Experts
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
    ROUTER = 4


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
    """The parts that every style of attention and an MLP has; a subclass combines them.

    A mixture of experts may be in the place of the MLP. Its output is not dropped, as in GPT-NeoX.
    """

    def __init__(self, cfg: ModelConfig, kind: LayerKind, rngs: nnx.Rngs):
        self.norm1 = norm(cfg.norm, ("embed",), rngs, D=cfg.hidden_size)
        self.attention: Mixer = Attention(cfg, rngs)
        self.norm2: nnx.Module | None = (  # None where one norm feeds both branches
            None if cfg.shared_norm else norm(cfg.norm, ("embed",), rngs, D=cfg.hidden_size)
        )
        self.mlp = None if kind == "experts" else Mlp(cfg, rngs)
        self.experts = Experts(cfg, rngs) if kind == "experts" else None
        self.dropout_rate = cfg.hidden_dropout

    def _attention(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        return self.attention(x_BTD, context.at(DropoutPlace.ATTENTION_WEIGHTS))

    def _mlp(
        self, x_BTD: jax.Array, context: Context, stream_BTD: jax.Array
    ) -> tuple[jax.Array, Sums]:
        """Compute the MLP or the mixture, a partial sum without a bias, and what it adds up.

        Args:
            x_BTD: the normalised input.
            context: what the layers share.
            stream_BTD: the residual stream that is normalised; a router reads it as it is laid out.
        """
        if self.experts is not None:
            routed_BTD = self._second_norm(stream_BTD)
            return self.experts(routed_BTD, x_BTD, context.at(DropoutPlace.ROUTER))
        assert self.mlp is not None
        return self.mlp(x_BTD, context.at(DropoutPlace.MLP_INSIDE)), {}

    @property
    def _mlp_bias(self) -> nnx.Param | None:
        return None if self.mlp is None else self.mlp.down_bias

    def _second_norm(self, x_BTD: jax.Array) -> jax.Array:
        """Normalise the input of the MLP."""
        normed_BTD: jax.Array = (self.norm1 if self.norm2 is None else self.norm2)(x_BTD)
        return normed_BTD

    def _mlp_dropout(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        if self.experts is not None:
            return x_BTD
        return self._dropout(x_BTD, context, DropoutPlace.MLP_OUTPUT)

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
        partial_mlp_BTD, sums = self._mlp(into_mlp_BTD, context, x_BTD)
        if context.noise is None or self.dropout_rate == 0.0:
            y_BTD = _reduce(partial_attention_BTD + partial_mlp_BTD, layout)
            y_BTD = _add(_add(x_BTD + y_BTD, self.attention.out_bias), self._mlp_bias)
            return context.tap("residual", y_BTD), sums
        attention_BTD = _completed(partial_attention_BTD, self.attention.out_bias, layout)
        mlp_BTD = _completed(partial_mlp_BTD, self._mlp_bias, layout)
        y_BTD = (
            x_BTD
            + self._dropout(attention_BTD, context, DropoutPlace.ATTENTION_OUTPUT)
            + self._mlp_dropout(mlp_BTD, context)
        )
        return context.tap("residual", y_BTD), sums

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
        into_attention_BTD = _gather(self.norm1(x_BTD), layout, into="kv_heads")
        partial_BTD = self._attention(into_attention_BTD, context)
        attention_BTD = _completed(partial_BTD, self.attention.out_bias, layout)
        h_BTD = x_BTD + self._dropout(attention_BTD, context, DropoutPlace.ATTENTION_OUTPUT)
        into_mlp_BTD = _gather(self._second_norm(h_BTD), layout, into="mlp")
        partial_BTD, sums = self._mlp(into_mlp_BTD, context, h_BTD)
        mlp_BTD = _completed(partial_BTD, self._mlp_bias, layout)
        y_BTD = h_BTD + self._mlp_dropout(mlp_BTD, context)
        return context.tap("residual", y_BTD), sums


class AttentionlessBlock(AttentionBlock):
    """`x + mlp(norm(x))`, with the norm that the parallel style gives the MLP, and no dropout.

    GPT-NeoX computes this for a parallel residual where the MLP has no output bias: the call that
    would add the bias and the attention, and drop some of it, is left out
    (megatron/model/transformer.py, ParallelTransformerLayer.forward at ea7aefd8). A mixture of
    experts never has one; its whole output is added up once more over the devices of tensor
    parallelism, so that it counts as often as there are of them.
    """

    def __init__(self, cfg: ModelConfig, kind: LayerKind, rngs: nnx.Rngs, times: int = 1):
        super().__init__(cfg, kind, rngs)
        self.times = times

    def __call__(self, x_BTD: jax.Array, context: Context) -> tuple[jax.Array, Sums]:
        layout = context.layout
        into_mlp_BTD = _gather(self._second_norm(x_BTD), layout, into="mlp")
        partial_BTD, sums = self._mlp(into_mlp_BTD, context, x_BTD)
        mlp_BTD = _reduce(partial_BTD, layout)
        mlp_BTD = mlp_BTD if self.times == 1 else mlp_BTD * self.times
        y_BTD = _add(x_BTD + mlp_BTD, self._mlp_bias)
        return context.tap("residual", y_BTD), sums


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
    if kind == "experts" and cfg.experts is not None and cfg.experts.residual_quirk:
        return AttentionlessBlock(cfg, kind, rngs, cfg.experts.residual_quirk)
    if kind == "dense" and cfg.attention_dropped:
        return AttentionlessBlock(cfg, kind, rngs)
    style = ParallelBlock if cfg.parallel_residual else SequentialBlock
    return style(cfg, kind, rngs)


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
