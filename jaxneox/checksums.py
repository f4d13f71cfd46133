"""A number for each array of a checkpoint, the same on every mesh, that any changed bit changes.

Formats do not check the numbers they hold: a flipped bit of an incompressible chunk decodes into
another number. The sum of all elements' bits modulo 2^32, each times an odd weight that is hashed
from its position, does: a single flipped bit adds an odd number times a power of two, which is
never 0; anything else goes unnoticed once in 2^32. Integer sums do not depend on their order, so
that each device adds what it holds.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

Sums = dict[str, str]  # "float32:0badf00d"
dotted = partial(jax.tree_util.keystr, simple=True, separator=".")


def checksums(tree: Any) -> Sums:
    """Sum each array, by dotted names. On a mesh of several processes all must call this."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    sums = _sums([leaf for _, leaf in leaves])
    return {
        dotted(path): f"{leaf.dtype}:{int(one):08x}"
        for (path, leaf), one in zip(leaves, sums, strict=True)
    }


def differing(actual: Sums, expected: Sums) -> list[str]:
    """List the arrays whose sums differ; one that was restored in another precision is left out."""
    return [
        name
        for name in sorted(actual.keys() & expected.keys())
        if actual[name].split(":")[0] == expected[name].split(":")[0]
        and actual[name] != expected[name]
    ]


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_sum(leaf) for leaf in leaves]


def _sum(leaf: jax.Array) -> jax.Array:
    if jax.typeof(leaf).memory_space == jax.memory.Space.Host:
        leaf = jax.device_put(leaf, jax.memory.Space.Device)
    sharding = jax.typeof(leaf).sharding
    spec = sharding if isinstance(sharding, NamedSharding) and not sharding.mesh.empty else None
    position = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis, out_sharding=spec)
        position = position * jnp.uint32(size % 2**32) + along
    return jnp.sum(_bits(leaf) * _hash(position), dtype=jnp.uint32)


def _bits(leaf: jax.Array) -> jax.Array:
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    return jax.lax.bitcast_convert_type(leaf, width).astype(jnp.uint32)


def _hash(x: jax.Array) -> jax.Array:
    """Make an odd number from a position, by the finalizer of MurmurHash3."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return (x ^ (x >> 16)) | jnp.uint32(1)
