"""Parameters at rest: their shapes and shardings, and arrays of one's own laid out so."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxneox.errors import UserError, listed
from jaxneox.model import Model, Params
from jaxneox.parallel.rules import Rules


def abstract_params(model: Model, rules: Rules, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Describe the parameters at rest, float32, as shapes with shardings."""
    return {
        name: jax.ShapeDtypeStruct(
            shape,
            jnp.float32,
            sharding=NamedSharding(mesh, rules.parameter(name, model.axes[name], shape)),
        )
        for name, shape in model.shapes.items()
    }


def laid_out(
    params: Mapping[str, jax.Array | np.ndarray], model: Model, rules: Rules, mesh: Mesh
) -> Params:
    """Lay out parameters of one's own on a model's mesh.

    Raises:
        UserError: a name is missing or unknown, or an array has another shape or dtype.
    """
    expected = abstract_params(model, rules, mesh)
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - params.keys())]
    wrong += [f"{name} is not in this model" for name in sorted(params.keys() - expected.keys())]
    wrong += [
        f"{name} is {_form(params[name])}, expected {_form(leaf)}"
        for name, leaf in expected.items()
        if name in params and _form(params[name]) != _form(leaf)
    ]
    if wrong:
        raise UserError(f"these are no parameters of this model: {listed(wrong, separator='; ')}")
    return {name: jax.device_put(params[name], expected[name].sharding) for name in expected}


def _form(array: Any) -> str:
    """Write dtype and shape, as in float32[2, 3]."""
    if not hasattr(array, "shape"):
        return type(array).__name__
    return f"{array.dtype}{list(array.shape)}"
