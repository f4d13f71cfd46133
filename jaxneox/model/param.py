"""How a parameter is declared: its logical axes, its sizes and its first value, on one line."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxneox.config.schema import InitMethod, ModelConfig
from jaxneox.model import draw

Initializer = Callable[[jax.Array, tuple[int, ...], int], jax.Array]
"""(key, shape, number of leading axes that the matrix reads from) -> float32 array."""


def param(
    rngs: nnx.Rngs, axes: Sequence[str], init: Initializer, *, reads: int = 1, **sizes: int
) -> nnx.Param:
    """Declare a float32 parameter whose shape is `sizes` in order, one logical axis name for each.

    Args:
        rngs: the source of random keys.
        axes: logical axis names, which `parallel/rules.py` translates to mesh axes.
        init: draws the initial value.
        reads: the number of leading axes that the matrix contracts with its input; the others are
            its output. Only xavier and orthogonal initialisation look at it.
        sizes: the length of each axis, by the letter that the shape suffixes use.
    """
    if len(axes) != len(sizes):
        raise ValueError(f"{len(axes)} axes {tuple(axes)} for {len(sizes)} sizes {sizes}")
    value = init(rngs.params(), tuple(sizes.values()), reads)
    return nnx.Param(value, axes=tuple(axes), exact=False, eager_sharding=False)


def exactly(parameter: nnx.Param) -> nnx.Param:
    """Mark a parameter with which a layer computes in float32, whatever its activations are."""
    parameter.set_metadata(exact=True)
    return parameter


def zeros(key: jax.Array, shape: tuple[int, ...], reads: int = 1) -> jax.Array:
    return jnp.zeros(shape, jnp.float32)


def ones(key: jax.Array, shape: tuple[int, ...], reads: int = 1) -> jax.Array:
    return jnp.ones(shape, jnp.float32)


def normal(std: float) -> Initializer:
    def init(key: jax.Array, shape: tuple[int, ...], reads: int = 1) -> jax.Array:
        return std * draw.normal(key, shape)

    return init


def xavier_uniform(key: jax.Array, shape: tuple[int, ...], reads: int = 1) -> jax.Array:
    bound = math.sqrt(6 / sum(_fans(shape, reads)))
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def xavier_normal(key: jax.Array, shape: tuple[int, ...], reads: int = 1) -> jax.Array:
    return normal(math.sqrt(2 / sum(_fans(shape, reads))))(key, shape, reads)


def orthogonal(gain: float) -> Initializer:
    def init(key: jax.Array, shape: tuple[int, ...], reads: int = 1) -> jax.Array:
        rows, columns = _fans(shape, reads)
        return gain * jax.random.orthogonal(key, rows, m=columns).reshape(shape)

    return init


def initializer(method: InitMethod, cfg: ModelConfig) -> Initializer:
    """Return NeoX's initialisation of that name (megatron/model/init_functions.py).

    The widths in `small_init` and `wang_init` are the hidden size, whatever the matrix; with muP
    that of the base, from which `Widths.initial` goes on.
    """
    std, layers, widths = cfg.init.std, cfg.num_layers, cfg.init.widths
    scaled = widths is not None and not widths.as_neox
    hidden = cfg.hidden_size / widths.hidden if widths and scaled else cfg.hidden_size
    return {
        "normal": normal(std),
        "scaled_normal": normal(std / math.sqrt(2 * layers)),
        "single_residual_scaled_normal": normal(std / math.sqrt(layers)),
        "small_init": normal(math.sqrt(2 / (5 * hidden))),
        "wang_init": normal(2 / layers / math.sqrt(hidden)),
        "xavier_uniform": xavier_uniform,
        "xavier_normal": xavier_normal,
        "orthogonal": orthogonal(math.sqrt(2)),
        "scaled_orthogonal": orthogonal(math.sqrt(2 / layers)),
    }[method]


def _fans(shape: tuple[int, ...], reads: int) -> tuple[int, int]:
    return math.prod(shape[:reads]), math.prod(shape[reads:])
