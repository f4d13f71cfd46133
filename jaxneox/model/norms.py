"""Normalisation over the hidden axis. Statistics are in float32; the result has the input's dtype.

The backward pass keeps the input alone, and computes the rest again.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from jaxneox.config.layer_schema import NormKind
from jaxneox.config.schema import NormConfig
from jaxneox.model.param import ones, param, zeros


class LayerNorm(nnx.Module):
    """`(x - mean) / sqrt(var + epsilon) * scale + bias` over the last `len(sizes)` axes."""

    def __init__(self, cfg: NormConfig, axes: tuple[str, ...], rngs: nnx.Rngs, **sizes: int):
        self.epsilon, self.over = cfg.epsilon, tuple(range(-len(axes), 0))
        self.scale = param(rngs, axes, ones, **sizes)
        self.bias = param(rngs, axes, zeros, **sizes) if cfg.bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        bias = None if self.bias is None else _under(self.bias[...], x)
        return _layernorm(x, _under(self.scale[...], x), bias, self.over, self.epsilon)


class NonParametricLayerNorm(nnx.Module):
    """A LayerNorm without scale and bias."""

    def __init__(self, cfg: NormConfig, axes: tuple[str, ...], rngs: nnx.Rngs, **sizes: int):
        self.epsilon, self.over = cfg.epsilon, tuple(range(-len(axes), 0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return _layernorm(x, None, None, self.over, self.epsilon)


class RMSNorm(nnx.Module):
    """`x / sqrt(mean(x^2) + epsilon) * scale`, the mean over the last axis alone, or over all."""

    def __init__(
        self,
        cfg: NormConfig,
        axes: tuple[str, ...],
        rngs: nnx.Rngs,
        *,
        joint: bool = False,
        **sizes: int,
    ):
        self.epsilon = cfg.epsilon
        self.over = tuple(range(-len(axes), 0)) if joint else (-1,)
        self.scale = param(rngs, axes, ones, **sizes)

    def __call__(self, x: jax.Array) -> jax.Array:
        return _rmsnorm(x, _under(self.scale[...], x), self.over, self.epsilon)


class ScaleNorm(nnx.Module):
    """`g * x / max(|x|, epsilon)` with one learned number g."""

    def __init__(self, cfg: NormConfig, axes: tuple[str, ...], rngs: nnx.Rngs, **sizes: int):
        self.epsilon = cfg.epsilon
        self.g = param(rngs, ("one",), ones, one=1)

    def __call__(self, x: jax.Array) -> jax.Array:
        return _scalenorm(x, _under(self.g[...], x), self.epsilon)


KINDS: dict[NormKind, Callable[..., nnx.Module]] = {
    "layernorm": LayerNorm,
    "non_parametric_layernorm": NonParametricLayerNorm,
    "rmsnorm": RMSNorm,
    "scalenorm": ScaleNorm,
}


def norm(cfg: NormConfig, axes: tuple[str, ...], rngs: nnx.Rngs, **sizes: int) -> nnx.Module:
    """Make the norm that the configuration names, with parameters of these axes and sizes."""
    return KINDS[cfg.kind](cfg, axes, rngs, **sizes)


@partial(jax.checkpoint, static_argnums=(3, 4), prevent_cse=False)
def _layernorm(
    x: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    over: tuple[int, ...],
    epsilon: float,
) -> jax.Array:
    x32 = x.astype(jnp.float32)
    centred = x32 + -1.0 * _mean(x32, over)
    y = centred * jax.lax.rsqrt(_mean(centred * centred, over) + epsilon)
    y = y if scale is None else y * scale
    return (y if bias is None else y + bias).astype(x.dtype)


@partial(jax.checkpoint, static_argnums=(2, 3), prevent_cse=False)
def _rmsnorm(x: jax.Array, scale: jax.Array, over: tuple[int, ...], epsilon: float) -> jax.Array:
    x32 = x.astype(jnp.float32)
    return (x32 * jax.lax.rsqrt(_mean(x32 * x32, over) + epsilon) * scale).astype(x.dtype)


@partial(jax.checkpoint, static_argnums=(2,), prevent_cse=False)
def _scalenorm(x: jax.Array, g: jax.Array, epsilon: float) -> jax.Array:
    x32 = x.astype(jnp.float32)
    square = jnp.sum(x32 * x32, axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(jnp.maximum(square, epsilon**2)) * g).astype(x.dtype)


def _mean(x: jax.Array, over: tuple[int, ...]) -> jax.Array:
    """Compute the mean as a product: jax negates and divides no gradients that are partial sums."""
    return jnp.sum(x, axis=over, keepdims=True) * (1 / math.prod(x.shape[axis] for axis in over))


def _under(weight: jax.Array, x: jax.Array) -> jax.Array:
    """Bring `weight` under x's last axes: float32, with leading axes of size one.

    If x's gradient is a partial sum, so is the weight's.
    """
    if parts := jax.typeof(x).sharding.spec.reduced:
        split = jax.typeof(weight).sharding.spec
        weight = jax.reshard(weight, PartitionSpec(*split, reduced=parts))
    return jnp.expand_dims(weight.astype(jnp.float32), range(x.ndim - weight.ndim))
