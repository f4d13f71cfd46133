"""The scan over the layers, and the activations that it keeps.

The kinds of layers follow a pattern, and one turn of the scan runs the layers of one repetition of
it: a program has each kind of layer as often as the pattern does, however deep the model is.

Of all layers only those are stored whose activation is kept: a buffer for each tap is carried from
turn to turn, with a slot for each layer that is kept, into which that layer writes.
"""
# B batch, T length, D hidden, k layers of which a tap is kept, or that have a sum
# r repetitions of the pattern, c layers of the pattern that have a weight; * any other axes

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxneox.model.context import Sums
from jaxneox.model.parameters import Params
from jaxneox.model.taps import Kept, Taps

Numbered = tuple[jax.Array, Params]
"""The number of a layer and its weights; or of the first layer of a repetition, and all weights."""


class LayerResult(NamedTuple):
    """The stream [B, T, D] after a layer, what it recorded by tap, and its sums."""

    x_BTD: jax.Array
    recorded: Kept
    sums: Sums


Layer = Callable[[jax.Array, Numbered], LayerResult]
"""(x [B, T, D], one layer) -> its result."""


class PatternLayer(NamedTuple):
    """A layer of the pattern.

    Attributes:
        layer: computes it.
        slots: for each of its weights its place among the layers of the pattern that have one.
    """

    layer: Layer
    slots: dict[str, int]


def places(layers: Sequence[Layer], names: Sequence[Sequence[str]]) -> list[PatternLayer]:
    """Lay out a pattern of layers, each with the names of its weights."""
    count: dict[str, int] = {}
    pattern = []
    for layer, own in zip(layers, names, strict=True):
        pattern.append(PatternLayer(layer, {name: count.get(name, 0) for name in own}))
        count |= {name: count.get(name, 0) + 1 for name in own}
    return pattern


def scan_layers(
    pattern: Sequence[PatternLayer],
    x_BTD: jax.Array,
    first: jax.Array | int,
    weights: Params,
    taps: Taps,
) -> LayerResult:
    """Run the residual stream through layers that repeat a pattern.

    Args:
        pattern: the layers that are repeated; they record what `taps` wants.
        x_BTD: the stream.
        first: the number of the first layer.
        weights: of all layers by name, [r c, *].
        taps: what is kept.

    Returns:
        The stream; for each tap what is kept, [k, *] in the order of the layers; and each sum over
        the layers that have it, [k, *].
    """
    turns = weights if len(pattern) == 1 else _by_turn(pattern, weights)
    count = next(iter(turns.values())).shape[0]
    numbers_r = first + jnp.arange(0, count * len(pattern), len(pattern), dtype=jnp.int32)

    def body(carry: tuple[jax.Array, Kept], turn: Numbered) -> tuple[tuple[jax.Array, Kept], Sums]:
        x_BTD, buffers = carry
        sums: dict[str, list[jax.Array]] = {}
        for place in range(len(pattern)):
            number, own = _layer_of(pattern, turn, place)
            x_BTD, recorded, added = pattern[place].layer(x_BTD, (number, own))
            for name, kept in taps.kept:
                if name in recorded:
                    slots_k = jnp.asarray(kept) == number
                    buffers = buffers | {name: _write(buffers[name], recorded[name], slots_k)}
            for name, value in added.items():
                sums.setdefault(name, []).append(value)
        return (x_BTD, buffers), {name: jnp.stack(values) for name, values in sums.items()}

    start = x_BTD, _empty(pattern, x_BTD, (numbers_r, turns), taps)
    (x_BTD, buffers), sums_rc = jax.lax.scan(body, start, (numbers_r, turns))
    sums = {name: value.reshape(-1, *value.shape[2:]) for name, value in sums_rc.items()}
    return LayerResult(x_BTD, buffers, sums)


def _by_turn(pattern: Sequence[PatternLayer], weights: Params) -> Params:
    """Split what is stacked over layers by repetitions of the pattern: [r c, *] -> [r, c, *]."""
    count = {name: slot + 1 for place in pattern for name, slot in place.slots.items()}

    def split(w: jax.Array, c: int) -> jax.Array:
        stored = jax.typeof(w).sharding.spec
        layers, *rest = stored.partitions
        spec = PartitionSpec(layers, None, *rest, reduced=stored.reduced)
        return jnp.reshape(w, (-1, c, *w.shape[1:]), out_sharding=spec)

    return {name: split(w, count[name]) for name, w in weights.items()}


def _layer_of(pattern: Sequence[PatternLayer], turn: Numbered, place: int) -> Numbered:
    """Return one layer of a repetition of the pattern."""
    first, weights = turn
    if len(pattern) == 1:
        return turn
    return first + place, {name: weights[name][c] for name, c in pattern[place].slots.items()}


def _empty(pattern: Sequence[PatternLayer], x_BTD: jax.Array, turns: Numbered, taps: Taps) -> Kept:
    """Make the buffers [k, *] of all taps, shaped and laid out as what the layers record."""
    if not taps.kept:
        return {}

    def record(x_BTD: jax.Array, turns: Numbered) -> Kept:
        one = jax.tree.map(lambda stacked: stacked[0], turns)
        recorded: Kept = {}
        for place in range(len(pattern)):
            recorded |= pattern[place].layer(x_BTD, _layer_of(pattern, one, place)).recorded
        return recorded

    def empty(count: int, like: jax.ShapeDtypeStruct) -> jax.Array:
        spec = PartitionSpec(None, *like.sharding.spec)
        return jnp.zeros((count, *like.shape), like.dtype, out_sharding=spec)

    recorded = jax.eval_shape(record, x_BTD, turns)
    return {name: empty(len(numbers), recorded[name]) for name, numbers in taps.kept}


def _write(buffer: jax.Array, x: jax.Array, slots_k: jax.Array) -> jax.Array:
    """Write x [*] into the slot of [k, *] that is marked; none may be.

    Some slot is always written, with what it holds if none is marked: XLA does this in place.
    """
    slot = jnp.argmax(slots_k)
    held = jax.lax.dynamic_index_in_dim(buffer, slot, keepdims=False)
    new = jnp.where(slots_k.any(), x, held)
    return jax.lax.dynamic_update_index_in_dim(buffer, new, slot, 0)
