"""One transformer layer. The residual styles differ in where the sums over devices are made."""
# B batch, T length, D hidden

from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxneox.config.schema import ModelConfig
from jaxneox.model.attention import Attention
from jaxneox.model.documents import Where
from jaxneox.model.dropout import Noise, dropout
from jaxneox.model.layout import Layout
from jaxneox.model.mlp import Mlp
from jaxneox.model.norms import norm
from jaxneox.model.product import PRODUCT


class Block(nnx.Module):
    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        self.norm1 = norm(cfg.norm, ("embed",), rngs, D=cfg.hidden_size)
        self.attention = Attention(cfg, rngs)
        second = (
            norm(cfg.norm, ("embed",), rngs, D=cfg.hidden_size) if not cfg.shared_norm else None
        )
        self.norm2: Any = second  # none where one norm feeds both branches
        self.mlp = Mlp(cfg, rngs)
        self.rate = cfg.hidden_dropout
        self.residual = residual(cfg)

    def __call__(
        self,
        x_BTD: jax.Array,
        where: Where,
        score_bias: jax.Array | None,
        noise: Noise | None,
        layout: Layout,
    ) -> jax.Array:
        """[B, T, D] -> [B, T, D], laid out as the residual stream."""

        def attention(x: jax.Array) -> jax.Array:
            inner = None if noise is None else noise.at(0)
            return self.attention(x, where, score_bias, inner, layout)

        return self.residual(self, x_BTD, attention, noise, layout)


def residual(cfg: ModelConfig):
    if cfg.attention_dropped:
        return without_attention
    return parallel if cfg.parallel_residual else sequential


def parallel(block: Block, x_BTD: jax.Array, attention, noise: Noise | None, layout: Layout):
    """`x + attention(norm1(x)) + mlp(norm2(x))`: both branches share the layer's ONE reduction, and
    one backwards.

    Dropout masks each branch, a product that a partial sum cannot enter: it takes a reduction for
    each branch.
    """
    both = ("kv_heads", "mlp")
    if block.norm2 is None:
        into_attention = into_mlp = _gather(block.norm1(x_BTD), layout, into=both)
    else:  # each device computes both norms of all it feeds, so that one gradient is summed
        shared_BTD = _gather(x_BTD, layout, into=both)
        into_attention, into_mlp = block.norm1(shared_BTD), block.norm2(shared_BTD)
    attended, fed = attention(into_attention), block.mlp(into_mlp, layout)
    if noise is None or block.rate == 0.0:
        y_BTD = _reduce(attended + fed, layout)
        return _add(_add(x_BTD + y_BTD, block.attention.out_bias), block.mlp.down_bias)
    attended = _add(_reduce(attended, layout), block.attention.out_bias)
    fed = _add(_reduce(fed, layout), block.mlp.down_bias)
    return (
        x_BTD + dropout(attended, block.rate, noise.at(1)) + dropout(fed, block.rate, noise.at(2))
    )


def sequential(block: Block, x_BTD: jax.Array, attention, noise: Noise | None, layout: Layout):
    """`h = x + attention(norm1(x)); h + mlp(norm2(h))`"""
    attended = attention(_gather(block.norm1(x_BTD), layout, into="kv_heads"))
    attended = _add(_reduce(attended, layout), block.attention.out_bias)
    h_BTD = x_BTD + dropout(attended, block.rate, noise and noise.at(1))
    fed = block.mlp(_gather(block.norm2(h_BTD), layout, into="mlp"), layout)
    fed = _add(_reduce(fed, layout), block.mlp.down_bias)
    return h_BTD + dropout(fed, block.rate, noise and noise.at(2))


def without_attention(block: Block, x_BTD: jax.Array, attention, noise, layout: Layout):
    """`x + mlp(norm(x))`, the norm that the parallel style gives the MLP, and no dropout.

    What GPT-NeoX computes for a parallel residual where the MLP has no output bias: the call that
    would add bias and attention, and drop some of it, is left out (megatron/model/transformer.py,
    ParallelTransformerLayer.forward at ea7aefd8).
    """
    norm2 = block.norm1 if block.norm2 is None else block.norm2
    fed = block.mlp(_gather(norm2(x_BTD), layout, into="mlp"), layout)
    return _add(x_BTD + _reduce(fed, layout), block.mlp.down_bias)


def _gather(x_BTD: jax.Array, layout: Layout, into: str | tuple[str, ...]) -> jax.Array:
    return jax.reshard(x_BTD, layout.feeds("batch", "length", "embed", into=into))


def _reduce(partial_BTD: jax.Array, layout: Layout) -> jax.Array:
    y_BTD = jax.reshard(partial_BTD, layout.activation("batch", "stream", "embed"))
    return checkpoint_name(y_BTD, PRODUCT)


def _add(x_BTD: jax.Array, bias: nnx.Param | None) -> jax.Array:
    return x_BTD if bias is None else x_BTD + bias[...][None, None]
