"""Where arrays lie, as the model sees it: by logical axis names, never by mesh axes."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import PartitionSpec
from numpy.typing import NDArray


class Pipeline(Protocol):
    """Layers in stages; `parallel.pipeline` has it."""

    def __call__(
        self, stage: Callable[..., jax.Array], weights: Any, x_MBTD: jax.Array, rows_MB: Any
    ) -> jax.Array: ...


class Ring(Protocol):
    """Devices in a ring between which a sequence is split; `parallel.ring` has it."""

    @property
    def axis(self) -> str: ...

    @property
    def count(self) -> int: ...


class Layout(Protocol):
    """Translates logical axes into shardings. `parallel.rules` has the one implementation."""

    def activation(self, *axes: str | None) -> PartitionSpec:
        """The sharding of an activation whose dimensions are named so."""

    def partial(self, *axes: str | None, over: str | tuple[str, ...]) -> PartitionSpec:
        """The same, of a sum that is still to be added up over the devices that split `over`."""

    def feeds(self, *axes: str | None, into: str | tuple[str, ...]) -> PartitionSpec:
        """The same, of the input to matrices whose output is split along `into`.

        Its gradient is a partial sum, so that several matrices share one reduction.
        """

    def parts(self, *axes: str | None) -> int:
        """How many devices split an activation between them."""

    def weight(self, *axes: str) -> PartitionSpec:
        """The sharding in which a layer computes with a weight."""

    def spread(self, micro: int) -> str | None:
        """The axis name of `micro` micro-batches outside the layers, None where all hold all."""

    def order(self, length: int) -> NDArray[np.int32]:
        """The positions of a sequence in the order in which the devices hold them."""

    @property
    def pipeline(self) -> Pipeline | None:
        """None where all layers are on all devices."""

    @property
    def rings(self) -> Ring | None:
        """None where attention sees whole sequences of keys and values."""


Axes = tuple[str | None, ...]


def platform() -> str:
    """Of the devices of the mesh for which a function is being traced: cpu, gpu or tpu."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def dual(x: jax.Array) -> PartitionSpec:
    """How the gradient of x lies: a partial sum over the devices that share x as it is."""
    spec = jax.typeof(x).sharding.spec
    return PartitionSpec(*spec.partitions, unreduced=spec.reduced, reduced=spec.unreduced)


def once(x: jax.Array) -> jax.Array:
    """Computed once, where XLA for CPUs would put it into each loop that reads it."""
    return jax.lax.optimization_barrier(x) if platform() == "cpu" else x


def on_devices(
    local: Callable[..., Any],
    inputs: tuple[Axes, ...],
    outputs: tuple[Axes, ...],
    layout: Layout,
) -> Callable[..., Any]:
    """`local` as the program of one device, on its parts of arrays whose dimensions are named.

    A pipeline runs its stages under a vmap, of which jax's own rule would gather all stages'
    arrays on every device; here each stage keeps its own.
    """
    ins = tuple(layout.activation(*axes) for axes in inputs)
    outs = tuple(layout.activation(*axes) for axes in outputs)

    @jax.custom_batching.custom_vmap
    def run(*arrays: jax.Array):
        return jax.shard_map(local, in_specs=ins, out_specs=outs)(*arrays)

    @run.def_vmap
    def _(size: int, batched: list[bool], *arrays: jax.Array):
        first = next(x for x, b in zip(arrays, batched, strict=True) if b)
        stages = jax.typeof(first).sharding.spec[0]
        mapped = tuple(
            PartitionSpec(stages, *spec) if b else spec
            for spec, b in zip(ins, batched, strict=True)
        )
        each = jax.vmap(local, in_axes=tuple(0 if b else None for b in batched))
        whole = tuple(PartitionSpec(stages, *spec) for spec in outs)
        results = jax.shard_map(each, in_specs=mapped, out_specs=whole)(*arrays)
        return results, (True,) * len(outs)

    return run
