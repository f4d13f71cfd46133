"""Taps: activations of a forward pass by public names, and the choice of those that are kept.

A layer calls `x = context.tap("residual", x)` where an activation has a name. `scan` stores only
what is kept.
"""
# k layers of which a tap is kept, * the axes of an activation

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import jax

from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError, cut

Kept = dict[str, jax.Array]
"""Activations by name: by a tap's name inside a layer, by the public names outside."""


@dataclass(frozen=True)
class Tap:
    """An activation that has a name.

    Attributes:
        shape: a letter for each axis: B batch, T length, D hidden.
        meaning: what it is.
        axes: the logical axes.
    """

    shape: str
    meaning: str
    axes: tuple[str | None, ...] = field(repr=False)


LAYER_TAPS: dict[str, Tap] = {
    "residual": Tap("B T D", "the residual stream after the layer", ("batch", "stream", "embed")),
}
"""The taps of a layer, by the names that it gives to `Context.tap`, in the order of computation."""


@dataclass(frozen=True)
class Taps:
    """The activations that one forward pass keeps.

    Attributes:
        kept: taps of the layers, each with the numbers of the layers in which it is kept.
    """

    kept: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def names(self) -> list[str]:
        """The public names of all that is kept, layer by layer."""
        each = [(number, name) for name, numbers in self.kept for number in numbers]
        return [_public(*one) for one in sorted(each, key=lambda one: one[0])]

    def recorder(self) -> "Recorder":
        """Make a recorder for one layer, inside the function that is traced for it."""
        return Recorder(frozenset(name for name, _ in self.kept))

    def named(self, stacked: Kept) -> Kept:
        """Take activations [k, *] by tap apart into [*] by their public names."""
        return {
            _public(number, name): stacked[name][slot]
            for name, numbers in self.kept
            for slot, number in enumerate(numbers)
        }


NOTHING = Taps()
"""Nothing is kept: the program is the one without taps."""


class Recorder:
    """Collects what is kept of one layer.

    It belongs to one trace of the layer's function, which makes it and returns `recorded`, so that
    the function stays pure.

    Attributes:
        recorded: activations by tap.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self.recorded: Kept = {}

    def __call__(self, name: str, x: jax.Array) -> jax.Array:
        """Record an activation if it is wanted, and return it."""
        if name in self._names:
            self.recorded[name] = x
        return x


def activations(cfg: ModelConfig) -> dict[str, Tap]:
    """Return all taps of a model by their public names, layer by layer."""
    numbers = range(cfg.num_layers)
    return {_public(number, name): tap for number in numbers for name, tap in LAYER_TAPS.items()}


def choose(patterns: str | Iterable[str], cfg: ModelConfig) -> Taps:
    """Choose activations by their public names.

    Args:
        patterns: of `fnmatch`, such as `layers.*.residual`; or one of them.
        cfg: the model's.

    Raises:
        UserError: a pattern fits no name.
    """
    chosen: dict[str, set[int]] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        fitting = [
            (name, number)
            for name in LAYER_TAPS
            for number in range(cfg.num_layers)
            if isinstance(pattern, str) and fnmatchcase(_public(number, name), pattern)
        ]
        if not fitting:
            names = ", ".join(f"layers.N.{name}" for name in LAYER_TAPS)
            raise UserError(
                f"keep: {cut(repr(pattern))} fits no activation of this model, which has {names} "
                f"with N from 0 to {cfg.num_layers - 1}; layers.*.residual stands for all layers"
            )
        for name, number in fitting:
            chosen.setdefault(name, set()).add(number)
    return Taps(tuple((name, tuple(sorted(chosen[name]))) for name in LAYER_TAPS if name in chosen))


def _public(number: int, name: str) -> str:
    return f"layers.{number}.{name}"
