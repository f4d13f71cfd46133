"""The scan over the layers, and the activations that it keeps.

Of all layers only those are stored whose activation is kept: a buffer for each tap is carried from
layer to layer, with a slot for each that is kept, into which that layer writes.
"""
# B batch, T length, D hidden, k layers of which a tap is kept; * the axes of an activation

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxneox.model.parameters import Params
from jaxneox.model.taps import Kept, Taps

Numbered = tuple[jax.Array, Params]
"""The number of a layer and its weights; or those of several layers, stacked."""

Layer = Callable[[jax.Array, Numbered], tuple[jax.Array, Kept]]
"""(x [B, T, D], one layer) -> (x, what it recorded, by tap)."""


def scan_layers(
    layer: Layer, x_BTD: jax.Array, layers: Numbered, taps: Taps
) -> tuple[jax.Array, Kept]:
    """Run the residual stream through layers.

    Args:
        layer: computes one of them, and records what `taps` wants.
        x_BTD: the stream.
        layers: their numbers and weights, stacked.
        taps: what is kept.

    Returns:
        The stream; and for each tap what is kept, [k, *] in the order of the layers.
    """

    def body(carry: tuple[jax.Array, Kept], one: Numbered) -> tuple[tuple[jax.Array, Kept], None]:
        x_BTD, buffers = carry
        x_BTD, recorded = layer(x_BTD, one)
        written = {
            name: _write(buffers[name], recorded[name], jnp.asarray(numbers) == one[0])
            for name, numbers in taps.kept
        }
        return (x_BTD, written), None

    return jax.lax.scan(body, (x_BTD, _empty(layer, x_BTD, layers, taps)), layers)[0]


def _empty(layer: Layer, x_BTD: jax.Array, layers: Numbered, taps: Taps) -> Kept:
    """Make the buffers [k, *] of all taps, shaped and laid out as what a layer records."""
    if not taps.kept:
        return {}

    def record(x_BTD: jax.Array, layers: Numbered) -> Kept:
        return layer(x_BTD, jax.tree.map(lambda stacked: stacked[0], layers))[1]

    def empty(count: int, like: jax.ShapeDtypeStruct) -> jax.Array:
        spec = PartitionSpec(None, *like.sharding.spec)
        return jnp.zeros((count, *like.shape), like.dtype, out_sharding=spec)

    recorded = jax.eval_shape(record, x_BTD, layers)
    return {name: empty(len(numbers), recorded[name]) for name, numbers in taps.kept}


def _write(buffer: jax.Array, x: jax.Array, slots_k: jax.Array) -> jax.Array:
    """Write x [*] into the slot of [k, *] that is marked; none may be.

    Some slot is always written, with what it holds if none is marked: XLA does this in place.
    """
    slot = jnp.argmax(slots_k)
    held = jax.lax.dynamic_index_in_dim(buffer, slot, keepdims=False)
    new = jnp.where(slots_k.any(), x, held)
    return jax.lax.dynamic_update_index_in_dim(buffer, new, slot, 0)
