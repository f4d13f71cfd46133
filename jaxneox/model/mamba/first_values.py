"""The initial values of a selective state space, those of GPT-NeoX and of mamba_ssm.

Source: Gu and Dao 2023, section 3.6 and their mamba_simple.py; megatron/model/mamba/mamba.py of
GPT-NeoX ea7aefd8 has the same.
"""

import math

import jax
import jax.numpy as jnp

from jaxneox.model.param import Initializer

STEPS = (1e-3, 1e-1)
"""Between these the initial step sizes lie, evenly by their logarithm."""

LEAST_STEP = 1e-4


def evenly(bound: float) -> Initializer:
    """Draw evenly between -bound and bound."""

    def init(key: jax.Array, shape: tuple[int, ...], reads: int = 1) -> jax.Array:
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

    return init


def logarithms(key: jax.Array, shape: tuple[int, ...], reads: int = 1) -> jax.Array:
    """Return log(1), log(2), … along the first axis: the state's numbers decay so fast."""
    rates = jnp.log(jnp.arange(1, shape[0] + 1, dtype=jnp.float32))
    return jnp.broadcast_to(rates[:, None], shape)


def step_biases(key: jax.Array, shape: tuple[int, ...], reads: int = 1) -> jax.Array:
    """Draw biases whose softplus are the initial step sizes."""
    least, most = map(math.log, STEPS)
    steps = jnp.exp(jax.random.uniform(key, shape, jnp.float32, least, most))
    steps = jnp.maximum(steps, LEAST_STEP)
    return steps + jnp.log(-jnp.expm1(-steps))
