"""Shows NeoX's matrices, one layer at a time, to optimizers that look at rows and columns."""

import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers

Axes = dict[str, tuple[str, ...]]


def matrix_split(axes: tuple[str, ...]) -> int | None:
    """Count the leading axes that are the matrix's rows; None for a vector or a scalar.

    Every matrix of the model reads from or writes to the hidden axis `embed`, which comes first or
    last (after `layers`).
    """
    inner = axes[1:] if axes[0] == "layers" else axes
    if len(inner) < 2 or "embed" not in (inner[0], inner[-1]):
        return None
    return 1 if inner[0] == "embed" else len(inner) - 1


def matrix_dimensions(axes: tuple[str, ...]) -> MuonDimensionNumbers | None:
    """Return the rows and columns of a layer's matrix; None if it is no matrix or in no layer."""
    rows = matrix_split(axes)
    if axes[0] != "layers" or rows is None:
        return None
    return MuonDimensionNumbers(tuple(range(1, 1 + rows)), tuple(range(1 + rows, len(axes))))


def by_matrix(inner: optax.GradientTransformation, axes: Axes) -> optax.GradientTransformation:
    """Apply `inner` to 2-D matrices (and flat vectors), to those of the layers under a vmap."""

    def per_layer(function: Callable[..., Any], layers: Any, *others: Any) -> Any:
        """Apply a function to each layer; there may be nothing of them that is trained."""
        return (jax.vmap(function) if layers else function)(layers, *others)

    def split(tree: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        flat = {name: _flat(value, axes[name]) for name, value in tree.items()}
        layers = {name: value for name, value in flat.items() if axes[name][0] == "layers"}
        return layers, {name: value for name, value in flat.items() if name not in layers}

    def init(params: optax.Params) -> optax.OptState:
        layers, rest = split(params)
        return {"layers": per_layer(inner.init, layers), "rest": inner.init(rest)}

    def update(
        updates: optax.Updates, state: optax.OptState, params: Any = None
    ) -> tuple[optax.Updates, optax.OptState]:
        layers, rest = split(updates)
        layer_params, rest_params = split(params)
        layers, state_layers = per_layer(inner.update, layers, state["layers"], layer_params)
        rest, state_rest = inner.update(rest, state["rest"], rest_params)
        shaped = {name: u.reshape(updates[name].shape) for name, u in (layers | rest).items()}
        return shaped, {"layers": state_layers, "rest": state_rest}

    return optax.GradientTransformation(init, update)


def _flat(value: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    start = 1 if axes[0] == "layers" else 0
    lead, inner = value.shape[:start], value.shape[start:]
    rows = matrix_split(axes)
    if rows is None:
        return value.reshape(*lead, -1)
    return value.reshape(*lead, math.prod(inner[:rows]), math.prod(inner[rows:]))
