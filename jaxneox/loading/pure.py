"""A model's functions as any other function of arrays: under jit, grad, vmap and scan.

Inside the model shardings are types, and jnp's functions refuse arrays whose shardings differ. At
this boundary they take and return what jnp takes: plain arrays on one device, and arrays that XLA
lays out as it likes (auto axes) on a mesh.
"""
# B batch, T length, V vocabulary

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from jaxneox.model import Model
from jaxneox.model.product import as_derived
from jaxneox.model.taps import Kept, Taps
from jaxneox.parallel.rules import Rules

Arrays = Mapping[str, jax.Array | np.ndarray]

TRACES = 64
"""For how many choices of activations a model has compiled functions at one time."""


def plain_mesh(mesh: Mesh) -> Mesh:
    """Return the same devices with axes of which no array's type tells."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def plain(x: jax.Array, mesh: Mesh, *, copy: bool = False) -> jax.Array:
    """Return an array of the model as jnp's functions take it.

    Args:
        x: an array on `mesh`.
        mesh: the model's devices.
        copy: whether the result outlives x, whose memory may be given away; else it is x's.
    """
    if mesh.size == 1:
        there: Sharding = SingleDeviceSharding(mesh.devices.item())
    else:
        assert isinstance(x.sharding, NamedSharding)
        there = NamedSharding(plain_mesh(mesh), x.sharding.spec)
    return jax.device_put(x, there, may_alias=not copy)


class WholeSums(Rules):
    """Rules by which every sum over devices is whole at once.

    Training keeps partial sums apart as long as it can, under types of their own. jax has no rules
    for these types in derivatives of derivatives.
    """

    def partial(self, *axes: str | None, over: str | tuple[str, ...]) -> PartitionSpec:
        return self.activation(*axes)

    def feeds(self, *axes: str | None, into: str | tuple[str, ...]) -> PartitionSpec:
        return self.activation(*axes)

    def weight(self, *axes: str, rows: tuple[str, ...] = ()) -> PartitionSpec:
        return super().weight(*axes)

    def summed(self, *axes: str) -> tuple[str, ...]:
        return ()


class PureFunctions:
    """The functions of one model on one mesh, of parameters that the caller gives.

    They are compiled once for each shape of tokens, and may be differentiated in forward and
    backward mode, any number of times: attention is computed by its formula, and jax derives all
    products.
    """

    def __init__(self, model: Model, rules: Rules, mesh: Mesh) -> None:
        attention = replace(model.cfg.attention, kernel="einsum")
        self._rules = WholeSums(
            **{field.name: getattr(rules, field.name) for field in fields(rules)}
        )
        cfg = replace(model.cfg, attention=attention)
        self.model = replace(model, cfg=cfg, layout=self._rules)
        self._mesh = mesh
        self.trace = lru_cache(TRACES)(self._trace)

    @cached_property
    def logits(self) -> Callable[..., jax.Array]:
        """(parameters, tokens int [B, T]) -> float32 [B, T, V]."""
        return self._plain(self.model.logits)

    @cached_property
    def token_losses(self) -> Callable[..., jax.Array]:
        """(parameters, tokens int [B, T + 1]) -> float32 [B, T], in nats."""
        return self._plain(self.model.token_losses)

    @cached_property
    def values(self) -> Callable[..., jax.Array]:
        """(parameters, tokens int [B, T]) -> float32 [B, T], of a reward model."""
        return self._plain(self.model.text_values)

    def _trace(self, taps: Taps) -> Callable[..., tuple[jax.Array, Kept]]:
        """(parameters, tokens int [B, T]) -> (logits, activations by name), for these taps."""
        return self._plain(partial(self.model.trace, taps=taps))

    def _plain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make a compiled function of plain arrays from one of parameters and tokens [B, T]."""
        names = self._mesh.axis_names
        rows = self._rules.activation("batch", None)
        auto = plain_mesh(self._mesh).abstract_mesh
        typed = jax.sharding.explicit_axes(function, axes=names, in_sharding=(self._specs, rows))

        def call(params: Arrays, tokens_BT: Any) -> Any:
            given = {name: jnp.asarray(params[name]) for name in self._specs}
            with as_derived(), jax.sharding.use_abstract_mesh(auto):
                return typed(given, jnp.asarray(tokens_BT, jnp.int32))

        return jax.jit(call)

    @cached_property
    def _specs(self) -> dict[str, PartitionSpec]:
        axes, shapes = self.model.axes, self.model.shapes
        return {name: self._rules.parameter(name, axes[name], shapes[name]) for name in axes}
