"""Products of activations and weights.

`into` has its gradients written out: for a weight's, jax derives a product over the two axes B and
T in an order for which XLA has no fast program on CPUs; this one takes half the time. `out_of` has
them on accelerators: jax derives the weight's gradient transposed, and XLA for TPUs then sums whole
matrices on every device instead of the parts that each stores. On CPUs XLA is faster with what jax
derives. What is written out has no derivative in forward mode, so that `as_derived` leaves it to
jax. `PRODUCT` is the name by which rematerialisation knows the results.
"""
# B batch, T length, X what is summed over, Y what comes out

import contextlib
import contextvars
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from jaxneox.model.layout import dual, platform

PRODUCT = "product"


def into(x_BTX: jax.Array, w_XY: jax.Array) -> jax.Array:
    """Multiply by a weight whose columns may be split: [B, T, Y], split as they are."""
    product = _product if is_derived() else _into
    return checkpoint_name(product(x_BTX, w_XY), PRODUCT)


def out_of(x_BTX: jax.Array, w_XY: jax.Array, partial: PartitionSpec) -> jax.Array:
    """Multiply by a weight whose rows are split: [B, T, Y], a partial sum over the devices.

    It gets its name for rematerialisation once it is added up: no loop over layers can keep a
    partial sum.
    """
    if is_derived() or platform() == "cpu":
        return _partial_product(partial, x_BTX, w_XY)
    return _out_of(partial, x_BTX, w_XY)


def matrix(weight: jax.Array, rows: int) -> jax.Array:
    """Join the first `rows` axes of a weight into one, and the others into another.

    Of either only the first may be split over devices.
    """
    spec = jax.typeof(weight).sharding.spec
    shape = (math.prod(weight.shape[:rows]), -1)
    split = PartitionSpec(spec.partitions[0], spec.partitions[rows], reduced=spec.reduced)
    return jnp.reshape(weight, shape, out_sharding=split)


def columns_of(x_BTX: jax.Array, w_XY: jax.Array) -> PartitionSpec:
    """Return the sharding of the product of x with a weight whose columns may be split."""
    batch, length, _ = jax.typeof(x_BTX).sharding.spec.partitions
    return PartitionSpec(batch, length, jax.typeof(w_XY).sharding.spec.partitions[-1])


_derived = contextvars.ContextVar("derived", default=False)


@contextlib.contextmanager
def as_derived() -> Iterator[None]:
    """Let jax derive the gradients of what is traced inside: in any mode, any number of times."""
    token = _derived.set(True)
    try:
        yield
    finally:
        _derived.reset(token)


def is_derived() -> bool:
    """Tell whether jax derives the gradients of what is traced here."""
    return _derived.get()


def _product(x_BTX: jax.Array, w_XY: jax.Array) -> jax.Array:
    return jnp.einsum("BTX,XY->BTY", x_BTX, w_XY)


_into = jax.custom_vjp(_product)


def _forward(x_BTX: jax.Array, w_XY: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _into(x_BTX, w_XY), (x_BTX, w_XY)


def _backward(saved: tuple[jax.Array, jax.Array], d_BTY: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_BTX, w_XY = saved
    d_x = jnp.einsum("BTY,XY->BTX", d_BTY, w_XY, out_sharding=dual(x_BTX))
    return d_x, jnp.einsum("BTX,BTY->XY", x_BTX, d_BTY, out_sharding=dual(w_XY))


_into.defvjp(_forward, _backward)


def _partial_product(partial: PartitionSpec, x_BTX: jax.Array, w_XY: jax.Array) -> jax.Array:
    return jnp.einsum("BTX,XY->BTY", x_BTX, w_XY, out_sharding=partial)


_out_of = jax.custom_vjp(_partial_product, nondiff_argnums=(0,))


def _out_of_forward(
    partial: PartitionSpec, x_BTX: jax.Array, w_XY: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _partial_product(partial, x_BTX, w_XY), (x_BTX, w_XY)


def _out_of_backward(
    partial: PartitionSpec, saved: tuple[jax.Array, jax.Array], d_BTY: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _backward(saved, d_BTY)


_out_of.defvjp(_out_of_forward, _out_of_backward)
