"""Products of activations and weights whose gradients are written out.

jax derives the gradient of a weight as a product over the two axes B and T in an order for which
XLA has no fast program on CPUs: as it is written here it takes half the time.
"""
# B batch, T length, X what is summed over, Y what comes out

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x_BTX: jax.Array, w_XY: jax.Array, out: PartitionSpec | None) -> jax.Array:
    """-> [B, T, Y], laid out as `out` where that does not follow from the factors."""
    return jnp.einsum("BTX,XY->BTY", x_BTX, w_XY, out_sharding=out)


def _forward(x_BTX: jax.Array, w_XY: jax.Array, out: PartitionSpec | None):
    return product(x_BTX, w_XY, out), (x_BTX, w_XY)


def _backward(out: PartitionSpec | None, saved: tuple[jax.Array, jax.Array], d_BTY: jax.Array):
    x_BTX, w_XY = saved
    d_x = jnp.einsum("BTY,XY->BTX", d_BTY, w_XY, out_sharding=_dual(x_BTX))
    return d_x, jnp.einsum("BTX,BTY->XY", x_BTX, d_BTY, out_sharding=_dual(w_XY))


product.defvjp(_forward, _backward)


def _dual(x: jax.Array) -> PartitionSpec:
    """How the gradient of x lies: a partial sum over the devices that share x as it is."""
    spec = jax.typeof(x).sharding.spec
    return PartitionSpec(*spec.partitions, unreduced=spec.reduced, reduced=spec.unreduced)
