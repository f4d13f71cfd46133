"""Weights that are stored in parts, made whole for the layer that computes with them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec


def gather(weight: jax.Array, spec: PartitionSpec) -> jax.Array:
    """Lay out `weight` as `spec`, whole over the devices that each store a part.

    On the way an axis that nothing splits is joined to the axis before it. The gradient takes the
    same way back, and for a matrix XLA sums it so that each device gets its part only (a
    reduce-scatter); for the four axes of attention's weights every device would get all of it.
    """
    stored = jax.typeof(weight).sharding.spec
    if stored.partitions == spec.partitions:
        return weight
    sizes: list[int] = []
    split: list[tuple[Any, Any]] = []  # before and after
    for size, *entries in zip(weight.shape, stored, spec, strict=True):
        if sizes and entries == [None, None]:
            sizes[-1] *= size
        else:
            sizes.append(size)
            split.append((entries[0], entries[1]))
    before, after = (PartitionSpec(*entries) for entries in zip(*split, strict=True))
    flat = jax.reshard(jnp.reshape(weight, sizes, out_sharding=before), after)
    return jnp.reshape(flat, weight.shape, out_sharding=spec)
