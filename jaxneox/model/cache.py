"""What decoding keeps of the tokens that each row has seen."""
# B rows, S positions that the cache holds, K key-value heads, G query heads for each, H head
# W width of a convolution, C channels, N state, U groups of channels, J channels of a group

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from jaxneox.config.optimization_schema import Dtype
from jaxneox.config.schema import ModelConfig
from jaxneox.model.layout import Axes, Layout
from jaxneox.model.mamba.mixer import group_axes


class Cache(NamedTuple):
    """The arrays of each layer, in tuples over the layers that have them.

    A row has seen the positions before its own. What keys and values hold from there on is left
    over, and written over before anything sees it.

    Attributes:
        keys: [B, K, S, H]; normalised keys are [B, K, G, S, H].
        values: [B, K, S, H].
        tails: of mamba layers what their convolution sees of the tokens before, [B, W - 1, C].
        states: of mamba layers, float32 [B, N, U, J].
    """

    keys: tuple[jax.Array, ...] = ()
    values: tuple[jax.Array, ...] = ()
    tails: tuple[jax.Array, ...] = ()
    states: tuple[jax.Array, ...] = ()


class CacheAxes(NamedTuple):
    """The logical axes of the arrays of a cache, one entry for each field of `Cache`."""

    keys: Axes
    values: Axes
    tails: Axes
    states: Axes


def cache_axes(cfg: ModelConfig, layout: Layout) -> CacheAxes:
    """Name the axes of a model's cache."""
    values: Axes = ("batch", "kv_heads", None, None)
    keys = (*values, None) if cfg.attention.qk_norm else values
    groups: Axes = (None, None) if cfg.mamba is None else group_axes(cfg.mamba, layout)
    return CacheAxes(keys, values, ("batch", None, "channels"), ("batch", None, *groups))


def empty_cache(
    cfg: ModelConfig, rows: int, length: int, compute: Dtype, layout: Layout, mesh: Mesh
) -> Cache:
    """Make a cache of zeros for `rows` rows of `length` positions."""
    att, m = cfg.attention, cfg.mamba
    value: tuple[int, ...] = (rows, att.kv_heads, length, att.head_dim)
    key = (rows, att.kv_heads, att.group, length, att.head_dim) if att.qk_norm else value
    mambas = cfg.kinds.count("mamba")
    attentions = len(cfg.attending)
    axes = cache_axes(cfg, layout)

    def zeros(count: int, shape: Iterable[int], dtype: Dtype, axes: Axes) -> tuple[jax.Array, ...]:
        sharding = NamedSharding(mesh, layout.activation(*axes))
        make = jax.jit(lambda: jnp.zeros(tuple(shape), dtype), out_shardings=sharding)
        return tuple(make() for _ in range(count))

    keys = zeros(attentions, key, compute, axes.keys)
    values = zeros(attentions, value, compute, axes.values)
    if m is None:
        return Cache(keys, values)
    state = (rows, m.state_size, m.groups, m.channels // m.groups)
    return Cache(
        keys,
        values,
        zeros(mambas, (rows, m.conv_width - 1, m.channels), compute, axes.tails),
        zeros(mambas, state, "float32", axes.states),
    )
