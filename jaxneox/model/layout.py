"""How arrays lie on devices, as the model sees it: by logical axis names, never by mesh axes."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import PartitionSpec
from numpy.typing import NDArray


class Pipeline(Protocol):
    """Runs layers in stages; implemented by `parallel.pipeline`."""

    def __call__(
        self, stage: Callable[..., Any], weights: Any, layers: int, x_MBTD: jax.Array, rows_MB: Any
    ) -> tuple[jax.Array, Any]: ...


class Ring(Protocol):
    """A ring of devices that each hold a part of the sequence; implemented by `parallel.ring`."""

    @property
    def axis(self) -> str: ...

    @property
    def count(self) -> int: ...


class RowExchange(Protocol):
    """An exchange of rows between devices that split experts; see `parallel.exchange`."""

    @property
    def count(self) -> int: ...

    def gathered(self, x: jax.Array) -> jax.Array: ...

    def number(self) -> jax.Array: ...

    def padded(self, rows_PCX: jax.Array) -> jax.Array: ...

    def ragged(self, rows_AX: jax.Array, sizes_PP: jax.Array, length: int) -> jax.Array: ...


class Layout(Protocol):
    """Translates logical axes into shardings; implemented by `parallel.rules`."""

    def activation(self, *axes: str | None) -> PartitionSpec:
        """Return the sharding of an activation with these axes."""

    def partial(self, *axes: str | None, over: str | tuple[str, ...]) -> PartitionSpec:
        """Return the sharding of a sum that devices which split `over` have yet to add up."""

    def feeds(self, *axes: str | None, into: str | tuple[str, ...]) -> PartitionSpec:
        """Return the sharding of the input to matrices whose output is split along `into`.

        Its gradient is a partial sum, so that several matrices share one reduction.
        """

    def parts(self, *axes: str | None) -> int:
        """Count the devices that split an activation with these axes between them."""

    def weight(self, *axes: str, rows: tuple[str, ...] = ()) -> PartitionSpec:
        """Return the sharding in which a layer computes with a weight.

        Where axes of activations are named as `rows`, its gradient is a partial sum over the
        devices that split these.
        """

    def summed(self, *axes: str) -> tuple[str, ...]:
        """Name the axes of activations that may be the `rows` of a weight with these axes."""

    def spread(self, micro: int) -> str | None:
        """Name the axis of `micro` micro-batches outside the layers.

        It is None if every stage holds all micro-batches.
        """

    def order(self, length: int) -> NDArray[np.int32]:
        """List the positions of a sequence in the order in which the devices hold them."""

    @property
    def pipeline(self) -> Pipeline | None:
        """The pipeline that runs the layers, or None if every device holds all layers."""

    @property
    def rings(self) -> Ring | None:
        """The ring of attention, or None if attention sees whole sequences of keys and values."""

    @property
    def exchange(self) -> RowExchange | None:
        """The exchange between the devices that split the experts, or None if each has all."""


Axes = tuple[str | None, ...]
Entry = str | tuple[str, ...] | None
"""What splits one axis of an array, as a PartitionSpec has it."""


def mesh_axes(entry: Entry) -> tuple[str, ...]:
    """List the mesh axes of an entry of a PartitionSpec."""
    return (entry,) if isinstance(entry, str) else entry or ()


def entry_of(names: tuple[str, ...]) -> Entry:
    """Make an entry of a PartitionSpec from mesh axes, the reverse of `mesh_axes`."""
    return names if len(names) > 1 else names[0] if names else None


def platform() -> str:
    """Name the platform that is traced for, the devices of the current mesh: cpu, gpu or tpu."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def dual(x: jax.Array) -> PartitionSpec:
    """Return the sharding of the gradient of x: a partial sum over the devices that share x."""
    spec = jax.typeof(x).sharding.spec
    return PartitionSpec(*spec.partitions, unreduced=spec.reduced, reduced=spec.unreduced)


def once(x: jax.Array) -> jax.Array:
    """Compute x once; XLA for CPUs would otherwise recompute it in each loop that reads it."""
    return jax.lax.optimization_barrier(x) if platform() == "cpu" else x


def varying_as(x: jax.Array, *like: jax.Array) -> jax.Array:
    """Give x the type of what differs between devices where one of `like` does.

    The start of a loop in the program of one device must have the type of what the loop makes.
    """
    wanted = {name for other in like for name in jax.typeof(other).mat.varying}
    missing = tuple(sorted(wanted - jax.typeof(x).mat.varying))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def on_devices(
    local: Callable[..., Any],
    inputs: tuple[Axes, ...],
    outputs: tuple[Axes, ...],
    layout: Layout,
) -> Callable[..., Any]:
    """Make a function of whole arrays from `local`, see `each_device`.

    Args:
        local: takes and returns the parts of one device.
        inputs: the logical axes of each argument.
        outputs: the logical axes of each result.
        layout: translates the axes.
    """
    ins = tuple(layout.activation(*axes) for axes in inputs)
    return each_device(local, ins, tuple(layout.activation(*axes) for axes in outputs))


def each_device(
    local: Callable[..., Any], ins: tuple[PartitionSpec, ...], outs: tuple[PartitionSpec, ...]
) -> Callable[..., Any]:
    """Make a function of whole arrays from `local`, the program of one device on its parts of them.

    A pipeline runs its stages under a vmap, for which jax's own rule would gather all stages'
    arrays on every device; here each stage keeps its own. A device has one stage, for which
    `local` runs as it is: under a vmap a loop of so many turns as the data says would be slow.

    Args:
        local: takes the parts of one device, and returns a tuple of such parts.
        ins: the sharding of each argument.
        outs: the sharding of each result.
    """

    @jax.custom_batching.custom_vmap
    def run(*arrays: jax.Array) -> Any:
        return jax.shard_map(local, in_specs=ins, out_specs=outs)(*arrays)

    @run.def_vmap
    def _(size: int, batched: list[bool], *arrays: jax.Array) -> tuple[Any, tuple[bool, ...]]:
        first = next(x for x, b in zip(arrays, batched, strict=True) if b)
        stages = jax.typeof(first).sharding.spec[0]
        mapped = tuple(
            PartitionSpec(stages, *spec) if b else spec
            for spec, b in zip(ins, batched, strict=True)
        )
        each = _of_one_stage(local, batched)
        if stages is None:
            each = jax.vmap(local, in_axes=tuple(0 if b else None for b in batched))
        whole = tuple(PartitionSpec(stages, *spec) for spec in outs)
        results = jax.shard_map(each, in_specs=mapped, out_specs=whole)(*arrays)
        return results, (True,) * len(outs)

    return run


def _of_one_stage(local: Callable[..., Any], stacked: list[bool]) -> Callable[..., Any]:
    """Run `local` on the only stage of a device; those of its arrays that are stacked have one."""

    def one(*arrays: jax.Array) -> Any:
        results = local(*(x[0] if s else x for x, s in zip(arrays, stacked, strict=True)))
        return tuple(x[None] for x in results)

    return one


def sums_on_devices(
    local: Callable[..., tuple[jax.Array, ...]],
    arrays: tuple[jax.Array, ...],
    outs: tuple[PartitionSpec, ...],
) -> list[jax.Array]:
    """Run `local` on each device's parts; the results are partial sums as `outs` says.

    A partial sum leaves the devices as what it is: an array with one part for each of them, which
    is then added up under the type of a sum that is not yet made.

    Args:
        local: takes the parts of one device, and returns a tuple of such parts.
        arrays: its arguments, each taken as it is split.
        outs: the sharding of each result, `unreduced` where it is a partial sum.
    """

    def parts(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(x[None] for x in local(*arrays))

    def stacked(out: PartitionSpec) -> PartitionSpec:
        return PartitionSpec(tuple(sorted(out.unreduced)) or None, *out.partitions)

    run = each_device(parts, tuple(map(split_of, arrays)), tuple(map(stacked, outs)))
    found = run(*(jax.reshard(x, split_of(x)) for x in arrays))
    return [
        jax.lax.reduce_sum(x, (0,), out_sharding=out) for x, out in zip(found, outs, strict=True)
    ]


def split_of(x: jax.Array) -> PartitionSpec:
    """Return how an array is split, without whether it is a sum or its gradient will be one."""
    return PartitionSpec(*jax.typeof(x).sharding.spec.partitions)
