"""Weights that are stored in parts, made whole for the layer that computes with them."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxneox.model.layout import Layout, entry_of, mesh_axes
from jaxneox.model.vocabulary import padded

Names = tuple[str, ...]


def gather(weight: jax.Array, spec: PartitionSpec) -> jax.Array:
    """Lay out `weight` as `spec`, whole over the devices that each store a part.

    Where `spec` says so, the gradient of the result has the type of a partial sum.

    On the way an axis that nothing splits is joined to the axis before it, but the last to none
    that would be alone, and the axes turn until the one that is stored in parts comes first. The
    gradient takes the same way back, and along the rows of a matrix XLA sums it so that each device
    gets its part only (a reduce-scatter). Along its columns, in a row of numbers, or among the four
    axes of attention's weights every device might get all of it.
    """
    stored = jax.typeof(weight).sharding.spec
    if stored.partitions == spec.partitions:
        return weight
    both = zip(stored.partitions, spec.partitions, strict=True)
    changed = [i for i, (before, after) in enumerate(both) if before != after]
    if len(changed) == 1 and changed != [0]:
        count, (first,) = weight.ndim, changed
        turned = [(first + i) % count for i in range(count)]
        back = [(i - first) % count for i in range(count)]
        turned_spec = PartitionSpec(*(spec.partitions[i] for i in turned), reduced=spec.reduced)

        return jnp.transpose(gather(jnp.transpose(weight, turned), turned_spec), back)
    sizes: list[int] = []
    split: list[tuple[Any, Any]] = []  # before and after
    axes = zip(weight.shape, stored.partitions, spec.partitions, strict=True)
    for i, (size, *entries) in enumerate(axes):
        alone = len(sizes) == 1 and i == weight.ndim - 1
        if sizes and entries == [None, None] and not alone:
            sizes[-1] *= size
        else:
            sizes.append(size)
            split.append((entries[0], entries[1]))
    before, after = (PartitionSpec(*entries) for entries in zip(*split, strict=True))
    flat = jnp.reshape(weight, sizes, out_sharding=before)
    flat = reshard_in_steps(flat, PartitionSpec(*after, reduced=spec.reduced))
    return jnp.reshape(flat, weight.shape, out_sharding=spec)


def gather_all(
    weights: Mapping[str, jax.Array],
    axes: Mapping[str, Names],
    layout: Layout,
    *,
    in_layer: bool = False,
) -> dict[str, jax.Array]:
    """Make weights whole for a layer, with the vocabulary padded to what the devices divide.

    Args:
        weights: by name; those of a single layer have lost their first axis.
        axes: the logical axes of every parameter by name.
        layout: how arrays lie on the devices.
        in_layer: whether they are a layer's, whose matrices nothing but products reads. A gradient
            of those is a partial sum, of which each device is sent its part.
    """

    def whole(name: str, w: jax.Array) -> jax.Array:
        own = axes[name][len(axes[name]) - w.ndim :]
        rows = layout.summed(*own) if in_layer else ()
        return gather(padded(w, own, layout), layout.weight(*own, rows=rows))

    return {name: whole(name, w) for name, w in weights.items()}


def reshard_in_steps(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    """Lay out x as `spec` by steps each of which is one collective.

    In one step XLA turns some of these changes into a copy of the whole array on every device. A
    mesh axis that splits an array's axis last is the first that leaves it.
    """
    now = [mesh_axes(entry) for entry in jax.typeof(x).sharding.spec.partitions]
    splitting = {name for names in now for name in names}
    for step in _steps(now, [mesh_axes(entry) for entry in spec.partitions]):
        # in the first step the devices that hold copies already: their sums are of the parts
        whole = spec.reduced - (splitting & {name for names in step for name in names})
        x = jax.reshard(x, PartitionSpec(*map(entry_of, step), reduced=whole))
    return jax.reshard(x, spec)


def _steps(now: list[Names], goal: list[Names]) -> Iterator[list[Names]]:
    """Yield how an array is split after each step from `now` to `goal` but the last.

    A step takes away the last mesh axis of one that splits an array's axis, or all at its end that
    go to the same other axis.
    """
    now = list(now)
    place = {name: i for i, names in enumerate(goal) for name in names}
    while moving := [i for i, names in enumerate(now) if names != goal[i][: len(names)]]:
        i = min(moving, key=lambda i: now[i][-1] in place)  # what goes nowhere goes first
        to = place.get(now[i][-1])
        count = 1
        if to is not None:
            if to in moving:  # it has mesh axes that stand in the way
                return
            while count < len(now[i]) and place.get(now[i][-1 - count]) == to:
                count += 1
            now[to] += now[i][-count:]
        now[i] = now[i][:-count]
        if now == goal:
            return
        yield list(now)
