"""The parameters of all layers, stacked: each over the layers that have it.

A parameter of one kind of layer alone is as long as there are layers of that kind; what several
kinds have, such as the first norm, is stacked over the layers of all of them, in their order.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxneox.config.layer_schema import LayerKind

Path = tuple[Hashable, ...]
Make = Callable[[LayerKind, jax.Array], nnx.Module]
"""(kind, random key) -> a layer."""


class ParameterTree(nnx.Module):
    """Parameters by the paths at which the layers have them; it computes nothing."""

    def __init__(self, parameters: Mapping[Path, nnx.Param]):
        below: dict[str, dict[Path, nnx.Param]] = {}
        for (first, *rest), parameter in parameters.items():
            if rest:
                below.setdefault(str(first), {})[tuple(rest)] = parameter
            else:
                setattr(self, str(first), parameter)
        for name, parts in below.items():
            setattr(self, name, ParameterTree(parts))


def stacked(make: Make, kinds: Sequence[LayerKind], key: jax.Array) -> ParameterTree:
    """Draw the parameters of all layers, with a leading axis `layers`.

    Args:
        make: makes one layer.
        kinds: the kind of every layer.
        key: a random key, of which each layer has its own part.
    """
    keys = jax.random.split(key, len(kinds))
    found: dict[Path, list[tuple[tuple[int, ...], nnx.Param]]] = {}
    for kind in dict.fromkeys(kinds):
        numbers = layers_of([kind], kinds)
        own = keys if len(numbers) == len(kinds) else keys[jnp.asarray(numbers)]
        for path, parameter in nnx.to_flat_state(_drawn(make, kind, own)):
            found.setdefault(path, []).append((numbers, parameter))
    return ParameterTree({path: _joined(parts) for path, parts in found.items()})


def layers_of(having: Sequence[LayerKind], kinds: Sequence[LayerKind]) -> tuple[int, ...]:
    """List the numbers of the layers that are of one of the kinds `having`."""
    return tuple(number for number, kind in enumerate(kinds) if kind in having)


def _drawn(make: Make, kind: LayerKind, keys: jax.Array) -> nnx.State:
    """Draw the parameters of a layer for each key."""
    return jax.vmap(lambda key: nnx.state(make(kind, key)))(keys)


def _joined(parts: list[tuple[tuple[int, ...], nnx.Param]]) -> nnx.Param:
    """Stack a parameter of layers of several kinds in the order of their numbers."""
    first = parts[0][1]
    value = first[...]
    if len(parts) > 1:
        order = jnp.argsort(jnp.asarray([number for numbers, _ in parts for number in numbers]))
        value = jnp.concatenate([parameter[...] for _, parameter in parts])[order]
    axes, exact = ("layers", *first.get_metadata("axes")), first.get_metadata("exact")
    return nnx.Param(value, axes=axes, exact=exact, eager_sharding=False)
