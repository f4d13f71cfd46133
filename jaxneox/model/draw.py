"""Random numbers for initial parameters: `jax.random.normal`, in a form that XLA fuses on CPUs.

JAX lowers its generator, Threefry-2x32 with 20 rounds, to a loop over whole arrays on CPUs, which
reads and writes all of them in each of its turns: 25 ns a number, and here 5. The rounds are
written out here, so that XLA computes a number at a time. The numbers are the same, bit by bit.

Sources: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; which counter belongs to
which element, and how bits become a normal number, is that of jax/_src/{prng,random}.py with
`jax_threefry_partitionable`.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
MOST = 1 << 32  # elements, whose numbers are counters of 32 bits

Bits = jax.Array


@partial(jax.jit, static_argnums=1)  # traced once for all tensors of a shape
def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw from the standard normal distribution, float32.

    Args:
        key: a typed random key, of any of JAX's generators.
        shape: of the result.
    """
    if not is_plain(key) or math.prod(shape) >= MOST:
        return jax.random.normal(key, shape, jnp.float32)
    low = np.nextafter(np.float32(-1), np.float32(0))
    return np.float32(math.sqrt(2)) * jax.lax.erf_inv(uniform(key, shape, low, np.float32(1)))


def is_plain(key: jax.Array) -> bool:
    """Tell whether a key is JAX's own, in the way that numbers are the same on every mesh."""
    ours = str(jax.random.key_impl(key)) == "threefry2x32"
    return ours and bool(jax.threefry_partitionable.value)


def uniform(key: jax.Array, shape: tuple[int, ...], low: np.float32, high: np.float32) -> jax.Array:
    """Draw evenly from low to high: 23 random bits of a number from 1 to 2, shifted and scaled."""
    mantissa = (bits(key, shape) >> np.uint32(9)) | np.uint32(0x3F800000)
    unit = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - np.float32(1)
    return jnp.maximum(low, unit * (high - low) + low)


def bits(key: jax.Array, shape: tuple[int, ...]) -> Bits:
    """Draw uint32; the counter of an element is its place in the flat array."""
    counter = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        counter += along * np.uint32(stride)
        stride *= shape[axis]
    first, second = threefry(jax.random.key_data(key), jnp.zeros_like(counter), counter)
    return first ^ second


def threefry(key_2: jax.Array, x: Bits, y: Bits) -> tuple[Bits, Bits]:
    """Encrypt the counters (x, y) with a key uint32 [2]."""
    keys = (key_2[0], key_2[1], key_2[0] ^ key_2[1] ^ np.uint32(PARITY))
    x, y = x + keys[0], y + keys[1]
    for turn in range(5):
        for rotation in ROTATIONS[turn % 2]:
            x = x + y
            y = x ^ ((y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation)))
        x = x + keys[(turn + 1) % 3]
        y = y + keys[(turn + 2) % 3] + np.uint32(turn + 1)
    return x, y
