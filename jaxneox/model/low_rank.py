"""The product with a matrix of low rank, `(x A) B`, as each device computes it from its parts.

Neither product in the middle is a sum over devices of its own. Where A's rows are split, what a
device has after A is a part of a sum, and so is the result: it joins the sum of the product with
the whole matrix beside which A and B stand. Where B's columns are split, the gradient of x is such
a part. jax has no rule for products of partial sums, so that both directions are written out.
"""
# B batch, T length, X what A reads, R rank, Y what B writes

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxneox.model.layout import dual, mesh_axes, split_of, sums_on_devices


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def low_rank(
    x_BTX: jax.Array, a_XR: jax.Array, b_RY: jax.Array, factors_BTX: jax.Array | None, out: P
) -> jax.Array:
    """Compute (x A) B, [B, T, Y].

    Args:
        x_BTX: split along X as A is.
        a_XR: not split along the rank.
        b_RY: not split along the rank.
        factors_BTX: what x is multiplied with before, split as it is; None for nothing.
        out: the sharding of the result; a partial sum over the devices that split X.
    """

    def local(
        x_BTX: jax.Array, a_XR: jax.Array, b_RY: jax.Array, *factors: jax.Array
    ) -> tuple[jax.Array]:
        return (_times(x_BTX, factors) @ a_XR @ b_RY,)

    (y_BTY,) = sums_on_devices(local, (x_BTX, a_XR, b_RY, *_given(factors_BTX)), (out,))
    return y_BTY


def low_rank_derived(
    x_BTX: jax.Array, a_XR: jax.Array, b_RY: jax.Array, factors_BTX: jax.Array | None, out: P
) -> jax.Array:
    """Compute the same by two products that jax derives, in any mode and any number of times.

    Each of them is a whole sum at once.
    """
    rows = P(*out.partitions[:2], None)
    x_BTX = _times(x_BTX, _given(factors_BTX))
    x_BTR = jnp.einsum("BTX,XR->BTR", x_BTX, a_XR, out_sharding=rows)
    return jnp.einsum("BTR,RY->BTY", x_BTR, b_RY, out_sharding=out)


def _forward(
    x_BTX: jax.Array, a_XR: jax.Array, b_RY: jax.Array, factors_BTX: jax.Array | None, out: P
) -> tuple[jax.Array, Any]:
    return low_rank(x_BTX, a_XR, b_RY, factors_BTX, out), (x_BTX, a_XR, b_RY, factors_BTX)


def _backward(out: P, saved: Any, d_BTY: jax.Array) -> tuple[jax.Array | None, ...]:
    x_BTX, a_XR, b_RY, factors_BTX = saved

    def local(
        x_BTX: jax.Array, a_XR: jax.Array, b_RY: jax.Array, d_BTY: jax.Array, *factors: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        x_BTX, d_BTR = _times(x_BTX, factors), d_BTY @ b_RY.T
        d_a_XR = jnp.einsum("BTX,BTR->XR", x_BTX, d_BTR)
        d_b_RY = jnp.einsum("BTR,BTY->RY", x_BTX @ a_XR, d_BTY)
        return _times(d_BTR @ a_XR.T, factors), d_a_XR, d_b_RY

    rows, read, written = (
        _names(spec) for spec in (split_of(d_BTY)[:2], split_of(a_XR), split_of(b_RY))
    )
    arrays, over = (x_BTX, a_XR, b_RY), (written, rows | written, rows | read)
    outs = tuple(P(*split_of(x), unreduced=names) for x, names in zip(arrays, over, strict=True))
    found = sums_on_devices(local, (*arrays, d_BTY, *_given(factors_BTX)), outs)
    return *(jax.reshard(d, dual(x)) for d, x in zip(found, arrays, strict=True)), None


low_rank.defvjp(_forward, _backward)


def _times(x: jax.Array, factors: tuple[jax.Array, ...]) -> jax.Array:
    return x * factors[0] if factors else x


def _given(factors: jax.Array | None) -> tuple[jax.Array, ...]:
    return () if factors is None else (factors,)


def _names(spec: Iterable[Any]) -> frozenset[str]:
    """Collect the mesh axes of entries of a spec."""
    return frozenset(name for entry in spec for name in mesh_axes(entry))
