"""The sum of a token's experts' outputs as a function of whole arrays, with its gradients.

The gradients are written out, which keeps what is sent and stored in sight: `device` has the
programs of one device, forward and backward.
"""
# B batch, T length, D hidden, k choices of a token, E experts, F inner width

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from jaxneox.model.experts.device import Device, MixtureSettings, Saved
from jaxneox.model.experts.segments import one_hot
from jaxneox.model.layout import Axes, Layout, dual, mesh_axes, sums_on_devices
from jaxneox.model.product import PRODUCT, is_derived

ROWS = ("batch", "length")
SUMMED: Axes = ("mlp", *ROWS, None, None)
"""The axes of partial sums over the inner width that are kept: a part for each device."""


class Matrices(NamedTuple):
    """The experts' matrices: [E, D, F] twice, of which a plain MLP has one, and [E, F, D]."""

    up: jax.Array
    gate: jax.Array | None
    down: jax.Array

    @property
    def given(self) -> list[jax.Array]:
        return [w for w in self if w is not None]


def mixture(
    settings: MixtureSettings,
    x_BTD: jax.Array,
    choices_BTk: jax.Array,
    weights_BTk: jax.Array,
    matrices: Matrices,
) -> jax.Array:
    """Sum the outputs of each token's experts, weighted.

    Args:
        settings: how they compute.
        x_BTD: what they read.
        choices_BTk: int32, the experts of each token; the number of experts stands for none.
        weights_BTk: float32.
        matrices: the experts'.

    Returns:
        [B, T, D] in the dtype of x, a partial sum over the inner width.
    """
    compute = as_formula if is_derived() else _mixture
    return compute(settings, x_BTD, choices_BTk, weights_BTk, matrices)


def as_formula(
    settings: MixtureSettings,
    x_BTD: jax.Array,
    choices_BTk: jax.Array,
    weights_BTk: jax.Array,
    matrices: Matrices,
) -> jax.Array:
    """Compute `mixture` with every expert for every token, which has derivatives of any kind."""
    layout = settings.layout
    feeds = layout.feeds(*ROWS, None, None, into="mlp")
    chosen_BTkE = one_hot(choices_BTk, settings.experts).astype(jnp.float32)
    weights_BTE = jnp.sum(jax.reshard(chosen_BTkE, feeds) * weights_BTk[..., None], axis=2)
    up, gate, down = (
        w if w is None else jax.reshard(w, layout.weight("choices", *axes, rows=ROWS))
        for w, axes in zip(matrices, (("embed", "mlp"),) * 2 + (("mlp", "embed"),), strict=True)
    )
    inner = settings.activation(jnp.einsum("BTD,EDF->BTEF", x_BTD, up if gate is None else gate))
    if gate is not None:
        inner = inner * jnp.einsum("BTD,EDF->BTEF", x_BTD, up)
    spec = layout.partial(*ROWS, None, "embed", over="mlp")
    each_BTED = jnp.einsum("BTEF,EFD->BTED", inner, down, out_sharding=spec)
    return jnp.sum(each_BTED * weights_BTE[..., None].astype(x_BTD.dtype), axis=2)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mixture(
    settings: MixtureSettings, x: jax.Array, choices: jax.Array, weights: jax.Array, w: Matrices
) -> jax.Array:
    return _forward(settings, x, choices, weights, w)[0]


def _forward(
    settings: MixtureSettings, x: jax.Array, choices: jax.Array, weights: jax.Array, w: Matrices
) -> tuple[jax.Array, tuple[Any, ...]]:
    layout = settings.layout
    kept = tuple(layout.activation(*axes) for axes in _saved_axes(w))
    outs = (layout.partial(*ROWS, None, over="mlp"), *kept)
    y, *found = sums_on_devices(Device(settings).forward, (x, choices, weights, *w.given), outs)
    saved = Saved(*(checkpoint_name(array, PRODUCT) for array in found))
    return y, (x, weights, w, saved)


def _backward(settings: MixtureSettings, kept: Any, d_y: jax.Array) -> tuple[Any, ...]:
    x, weights, w, saved = kept
    layout, matrices = settings.layout, w.given
    partial_x = layout.partial(*ROWS, None, over="mlp")
    sums = [_sums(matrix, layout) for matrix in matrices]
    local = partial(Device(settings).backward, tuple(added for added, _ in sums))
    arrays = (d_y, weights, *matrices, *(array for array in saved if array is not None))
    outs = (partial_x, partial_x, *(spec for _, spec in sums))
    found = sums_on_devices(local, arrays, outs)
    before = (x, weights, *matrices)
    d_x, d_weights, *d_w = (
        jax.reshard(d, dual(array)) for d, array in zip(found, before, strict=True)
    )
    return d_x, None, d_weights, Matrices(d_w[0], None if w.gate is None else d_w[1], d_w[-1])


_mixture.defvjp(_forward, _backward)


def _saved_axes(w: Matrices) -> list[Axes]:
    """List the axes of the arrays of `Saved`."""
    whole: Axes = (*ROWS, None, None)
    inner: Axes = (*ROWS, None, "mlp")
    return [(*ROWS, None), whole, whole, SUMMED, inner, *([] if w.gate is None else [inner])]


def _sums(w: jax.Array, layout: Layout) -> tuple[tuple[str, ...], PartitionSpec]:
    """Say how the gradient of a matrix is added up over the devices that split the tokens.

    Returns:
        The mesh axes over which it is added up at once, and the sharding of what remains to be.
    """
    spec = jax.typeof(w).sharding.spec
    own = {name for entry in spec.partitions for name in mesh_axes(entry)}
    over = [name for entry in layout.activation(*ROWS) for name in mesh_axes(entry)]
    later = spec.reduced & set(over)
    added = tuple(name for name in over if name not in own | later)
    return added, PartitionSpec(*spec.partitions, unreduced=later)
