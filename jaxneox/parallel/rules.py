"""Which mesh axis splits which logical axis: the one table, and what follows from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jax.sharding import PartitionSpec as P

from jaxneox.errors import UserError

WEIGHTS: dict[str, str | None] = {
    "layers": None,
    "vocab": "tp",
    "kv_heads": "tp",
    "mlp": "tp",
    "embed": None,
    "positions": None,
    "group": None,
    "head": None,
    "buckets": None,
    "one": None,
}

ACTIVATIONS: dict[str, str | None] = {
    "batch": "dp",
    "length": None,
    "stream": None,  # the length of the residual stream; tp with sequence parallelism
    "embed": None,
    "vocab": "tp",
    "kv_heads": "tp",
    "mlp": "tp",
}


@dataclass(frozen=True)
class Rules:
    """The table for one mesh (`sizes`: devices by mesh axis) and one ZeRO stage."""

    sizes: tuple[tuple[str, int], ...]
    zero_stage: int = 0
    sequence_parallel: bool = False

    def activation(self, *axes: str | None) -> P:
        return P(*(self._lies(axis) for axis in axes))

    def partial(self, *axes: str | None, over: str) -> P:
        return P(*self.activation(*axes), unreduced=_some(ACTIVATIONS[over]))

    def feeds(self, *axes: str | None, into: str) -> P:
        return P(*self.activation(*axes), reduced=_some(ACTIVATIONS[into]))

    def weight(self, *axes: str) -> P:
        """In a layer: split over tp only."""
        return P(*(WEIGHTS[axis] for axis in axes))

    def parameter(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> P:
        """At rest: from ZeRO stage 3 on also split over dp."""
        self.check(name, axes, shape)
        spec = self.weight(*axes)
        return self.over_dp(axes, shape) if self.zero_stage >= 3 else spec

    def gradient(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> P:
        """While it is added up: from stage 2 on also split over dp."""
        return self.over_dp(axes, shape) if self.zero_stage >= 2 else self.weight(*axes)

    def optimizer(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> P:
        """Moments, and the parameters while they are updated: from stage 1 on split over dp."""
        return self.over_dp(axes, shape) if self.zero_stage >= 1 else self.weight(*axes)

    def over_dp(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> P:
        """The weight's spec with dp on the first axis that it divides, one that tp leaves free
        before one that it shares; the layers stay whole because they are visited one by one.

        A weight with no such axis (scalenorm's single number) is kept whole on every device; the
        sharding table shows it.
        """
        entries: list[str | tuple[str, ...] | None] = list(self.weight(*axes))
        places = sorted(range(len(axes)), key=lambda i: entries[i] is not None)
        for i in places:
            split = (*_some(WEIGHTS[axes[i]]), "dp")
            if axes[i] != "layers" and shape[i] % math.prod(map(self.size, split)) == 0:
                entries[i] = split if len(split) > 1 else "dp"
                break
        return P(*entries)

    def check(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> None:
        for axis, size in zip(axes, shape, strict=True):
            if axis not in WEIGHTS:
                raise UserError(f"{name}: its axis {axis!r} has no rule in parallel/rules.py")
            parts = self.size(WEIGHTS[axis])
            if size % parts:
                nearest = max(d for d in range(1, parts + 1) if size % d == 0)
                raise UserError(
                    f"{name}: tp={parts} does not divide its axis {axis} of {size}; "
                    f"the nearest smaller that does is tp={nearest}"
                )

    def parts(self, *axes: str | None) -> int:
        """How many devices split an activation between them."""
        return math.prod(self.size(self._lies(axis)) for axis in axes)

    def size(self, mesh_axis: str | None) -> int:
        return dict(self.sizes).get(mesh_axis, 1) if mesh_axis else 1

    def _lies(self, axis: str | None) -> str | None:
        if axis == "stream" and self.sequence_parallel:
            return "tp"
        return ACTIVATIONS[axis] if axis else None


def rules_for(sizes: Mapping[str, int], zero_stage: int, sequence_parallel: bool) -> Rules:
    return Rules(tuple(sizes.items()), zero_stage, sequence_parallel)


def _some(mesh_axis: str | None) -> frozenset[str]:
    return frozenset((mesh_axis,) if mesh_axis else ())
