"""Which mesh axis splits which logical axis: the one table, and what follows from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray

from jaxneox.errors import UserError
from jaxneox.parallel.entries import MeshAxes, entry_of, first_split, names_of
from jaxneox.parallel.exchange import RowExchange
from jaxneox.parallel.mesh import EXPERTS, INNER, OPTIONAL
from jaxneox.parallel.pipeline import Pipeline
from jaxneox.parallel.ring import Ring

WEIGHTS: dict[str, str | None] = {
    "layers": "pp",
    "vocab": "tp",
    "kv_heads": "tp",
    "mlp": "tp",
    "experts": EXPERTS,
    "choices": None,
    "embed": None,
    "positions": None,
    "group": None,
    "head": None,
    "buckets": None,
    "one": None,
    "rank": None,
    "channels": "tp",
    "channel_groups": None,
    "selection": None,
    "state": None,
    "step_rank": None,
    "conv": None,
}

PADDED = {"vocab"}
"""Axes that need not divide: the model pads them while it computes (`jaxneox.model.vocabulary`)."""

ACTIVATIONS: dict[str, MeshAxes] = {
    "micro": ("pp",),  # micro-batches, before the first layer and after the last
    "batch": ("dp", INNER, EXPERTS),
    "length": ("cp",),
    "stream": ("cp",),  # the length of the residual stream; tp as well with sequence parallelism
    "embed": (),
    "vocab": ("tp",),
    "kv_heads": ("tp",),
    "mlp": ("tp",),
    "channels": ("tp",),
}


@dataclass(frozen=True)
class Rules:
    """The shardings of one run: the table, the sizes of the mesh, and the run's options.

    A model names the axes of an array by what they are, and the table says which mesh axis splits
    each. Take the MLP's first matrix, declared with the axes ("layers", "embed", "mlp") and the
    shape [32, 4096, 16384], on a mesh of pp=2, dp=2, tp=4. At rest `parameter` gives P("pp", None,
    "tp"): a device holds 16 layers of [4096, 4096], and the two devices along dp hold copies. From
    ZeRO stage 3 on they share it, P("pp", "dp", "tp"). In a layer it has lost its first axis, and
    `weight` gives P(None, "tp") with the copies restored.

    Attributes:
        sizes: devices by mesh axis.
        zero_stage: from 1 on, what has copies is split between the devices that hold them: moments,
            from 2 on gradients too, from 3 on parameters.
        sequence_parallel: the residual stream is split over tp between the layers.
        chunks: chunks of layers for each pipeline stage.
        ring: attention over cp passes keys and values around, instead of gathering them.
    """

    sizes: tuple[tuple[str, int], ...]
    zero_stage: int = 0
    sequence_parallel: bool = False
    chunks: int = 1
    ring: bool = False

    def activation(self, *axes: str | None) -> P:
        return P(*(entry_of(self._split(axis)) for axis in axes))

    def partial(self, *axes: str | None, over: str | tuple[str, ...]) -> P:
        return P(*self.activation(*axes), unreduced=self._any(over))

    def feeds(self, *axes: str | None, into: str | tuple[str, ...]) -> P:
        return P(*self.activation(*axes), reduced=self._any(into))

    def weight(self, *axes: str, rows: tuple[str, ...] = ()) -> P:
        """Return a weight's sharding in a layer: split over tp only.

        Its gradient is a partial sum over what splits the axes `rows` of activations.
        """
        split = [None if axis == "layers" else self._on_mesh(axis) for axis in axes]
        return P(*split, reduced=self._any(rows) - set(split))

    def parameter(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> P:
        """Return a parameter's sharding at rest: from ZeRO stage 3 on nothing has copies."""
        self.check(name, axes, shape)
        return self._zero(axes, shape) if self.zero_stage >= 3 else self._at_rest(axes, shape)

    def in_step(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> P:
        """Return a parameter's sharding while the micro-batches of a step compute with it.

        Below stage 2, devices that hold copies of a matrix keep the partial sums of its gradient
        apart, and add them up once a step instead of once for every micro-batch. This works for
        matrices that the mesh splits within a layer, since only products and the lookup of tokens
        read them. Parameters that are added to a stream (biases, learned positions) or scale it
        cannot have such a gradient; they are small. Nor can matrices that are padded, whose
        gradient is cut before it is added up.

        What LoRA trains is summed once a step over all devices that do not split it, also those
        that split the matrix beside it.
        """
        spec = self.parameter(name, axes, shape)
        if "rank" in axes and self.zero_stage < 2:
            everywhere = self._any(("batch", "length", "kv_heads", "mlp"))
            return P(*spec, reduced=everywhere - {n for entry in spec for n in names_of(entry)})
        if self.zero_stage >= 2 or self._pads(axes, shape):
            return spec
        own = {name for entry in self._at_rest(axes, shape) for name in names_of(entry)}
        return P(*spec, reduced=self._any(self.summed(*axes)) - own)

    def summed(self, *axes: str) -> tuple[str, ...]:
        """Name the axes of activations over which a weight's gradient may be a partial sum.

        They are those of the rows of a matrix that the mesh splits within a layer, see `in_step`.
        A pipeline's stages, which are a vmap, can have no such sums.
        """
        split = {self._on_mesh(axis) for axis in axes if axis in WEIGHTS} - {None, "pp"}
        is_matrix = "embed" in axes and "rank" not in axes and bool(split)
        return ("batch", "length") if is_matrix and self.size("pp") == 1 else ()

    def gradient(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> P:
        """Return a gradient's sharding while it is added up: from stage 2 on without copies."""
        if self.zero_stage >= 2:
            return self._zero(axes, shape)
        in_step = self.in_step(name, axes, shape)
        return P(*in_step.partitions, unreduced=in_step.reduced)

    def optimizer(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> P:
        """Return the sharding of moments, and of parameters while they are updated.

        From stage 1 on they have no copies.
        """
        return self._zero(axes, shape) if self.zero_stage >= 1 else self._at_rest(axes, shape)

    def check(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> None:
        """Check that every axis has a rule, and that the mesh divides it.

        Raises:
            UserError: names the parameter and the nearest size that divides.
        """
        for axis, size in zip(axes, shape, strict=True):
            if axis not in WEIGHTS:
                raise UserError(f"{name}: its axis {axis!r} has no rule in parallel/rules.py")
            mesh_axis = WEIGHTS[axis]
            parts = self.size(mesh_axis)
            if size % parts and axis not in PADDED:
                nearest = max(d for d in range(1, parts + 1) if size % d == 0)
                raise UserError(
                    f"{name}: {mesh_axis}={parts} does not divide its axis {axis} of {size}; "
                    f"the nearest smaller that does is {mesh_axis}={nearest}"
                )

    def parts(self, *axes: str | None) -> int:
        """Count the devices that split an activation between them."""
        return math.prod(self.size(a) for axis in axes for a in self._split(axis))

    def spread(self, micro: int) -> str | None:
        """Name the axis of `micro` micro-batches outside the layers, "micro".

        It is None if every stage holds all micro-batches, since their number cannot be divided.
        """
        stages = self.size("pp")
        return "micro" if stages > 1 and micro % stages == 0 else None

    def order(self, length: int) -> NDArray[np.int32]:
        """List the positions of a sequence in the order in which the devices hold them: [T]."""
        ring = self.rings
        return np.arange(length, dtype=np.int32) if ring is None else ring.order(length)

    @property
    def pipeline(self) -> Pipeline | None:
        count = self.size("pp")
        return Pipeline("pp", count, self.chunks) if count > 1 else None

    @property
    def exchange(self) -> RowExchange | None:
        count = self.size(EXPERTS)
        return RowExchange(EXPERTS, count) if count > 1 else None

    @property
    def rings(self) -> Ring | None:
        count = self.size("cp")
        return Ring("cp", count) if self.ring and count > 1 else None

    def size(self, mesh_axis: str | None) -> int:
        return dict(self.sizes).get(mesh_axis, 1) if mesh_axis else 1

    def _has(self, mesh_axis: str) -> bool:
        """Tell whether the mesh has an axis: some are there only where they split something."""
        return mesh_axis not in OPTIONAL or self.size(mesh_axis) > 1

    def _on_mesh(self, axis: str) -> str | None:
        """Name the mesh axis that splits an axis of weights, if the mesh has it."""
        mesh_axis = WEIGHTS[axis]
        return mesh_axis if mesh_axis is not None and self._has(mesh_axis) else None

    def _any(self, names: str | tuple[str, ...]) -> frozenset[str]:
        """Return the mesh axes that split one of `names`."""
        each = (names,) if isinstance(names, str) else names
        return frozenset(mesh_axis for name in each for mesh_axis in self._split(name))

    def _split(self, axis: str | None) -> MeshAxes:
        if axis is None:
            return ()
        extra = ("tp",) if axis == "stream" and self.sequence_parallel else ()
        here = (name for name in ACTIVATIONS[axis] if self._has(name))
        return (*here, *extra)

    def _at_rest(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> P:
        """Return a sharding with copies over dp and cp, and over pp of what is in no layer.

        If a stage has several chunks its layers are not neighbours, and pp splits another axis
        until they are needed. In the place of an axis that is padded while the model computes, its
        mesh axis splits another one.
        """
        spec = self.weight(*axes)
        for i in self._pads(axes, shape):
            without = P(*(None if j == i else entry for j, entry in enumerate(spec)))
            spec = self._over(names_of(spec[i]), without, axes, shape)
        if "layers" not in axes or self.size("pp") == 1:
            return spec
        if self.chunks == 1:
            return P("pp", *spec[1:])
        return self._over(("pp",), spec, axes, shape)

    def _zero(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> P:
        """Split over all devices that would hold copies, as far as an axis divides.

        Attention's matrices are split along the heads if these divide: their width then stays
        whole, and a TPU, whose tiles are 128 numbers wide, has one to lay along them. Heads of 96
        numbers it pads by a third, those of 64 twofold. The MLP's last matrix is split along what
        it reads, since XLA for TPUs scatters sums along a matrix's first axis, and not always along
        its last.

        A weight without such an axis (scalenorm's single number) keeps its copies; the sharding
        table shows it.
        """
        spec = self._at_rest(axes, shape)
        taken = {name for entry in spec for name in names_of(entry)}
        holders = ("dp", INNER, EXPERTS, "cp") + (() if "layers" in axes else ("pp",))
        copies = tuple(a for a in holders if self.size(a) > 1 and a not in taken)
        for count in range(len(copies), 0, -1):
            split = self._over(copies[:count], spec, axes, shape, first_split(axes))
            if split != spec:
                return split
        return spec

    def _pads(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> list[int]:
        """List the places of axes that the model pads, because the mesh does not divide them."""
        return [
            i
            for i, (axis, size) in enumerate(zip(axes, shape, strict=True))
            if axis in PADDED and size % self.size(WEIGHTS[axis])
        ]

    def _over(
        self,
        extra: MeshAxes,
        spec: P,
        axes: tuple[str, ...],
        shape: tuple[int, ...],
        first: str | None = None,
    ) -> P:
        """Add `extra` to the longest axis that it divides, to a free axis before a shared one.

        The layers stay as they are because they are visited one by one. An axis named `first` comes
        before all others.
        """
        taken = [names_of(entry) for entry in spec]
        order = {i: (axes[i] != first, bool(taken[i]), -shape[i]) for i in range(len(axes))}
        for i in sorted(order, key=order.__getitem__):
            split = (*taken[i], *extra)
            if axes[i] != "layers" and shape[i] % math.prod(map(self.size, split)) == 0:
                return P(*(entry_of(split if j == i else names) for j, names in enumerate(taken)))
        return spec


def rules_for(
    sizes: Mapping[str, int],
    zero_stage: int,
    sequence_parallel: bool,
    chunks: int = 1,
    ring: bool = False,
) -> Rules:
    return Rules(tuple(sizes.items()), zero_stage, sequence_parallel, chunks, ring)
