"""Weights made whole for a layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxneox.model.gather import gather
from jaxneox.parallel.mesh import make_mesh, whole


@pytest.mark.parametrize(
    ("stored", "wanted", "axes"),
    [
        (P("dp", "tp", None, None), P(None, "tp", None, None), 2),  # queries, keys and values
        (P("tp", None, None, "dp"), P("tp", None, None, None), 2),  # attention's output
        (P(None, "tp", None, "dp"), P(None, "tp", None, None), 3),
        (P(None, None, ("tp", "dp"), None), P(None, None, "tp", None), 2),
        (P("dp", None, None, None), P(None, None, None, None), 1),
    ],
    ids=str,
)
def test_numbers_stay_and_gradients_are_summed_with_few_axes(stored, wanted, axes) -> None:
    mesh = make_mesh(whole({"dp": 2, "tp": 2}))
    numbers = np.arange(4 * 8 * 4 * 12, dtype=np.float32).reshape(4, 8, 4, 12)
    with jax.set_mesh(mesh):
        weight = jax.device_put(numbers, jax.NamedSharding(mesh, stored))
        out = jax.jit(lambda w: gather(w, wanted))(weight)
        grad = jax.jit(jax.grad(lambda w: jnp.sum(jnp.sin(gather(w, wanted)))))(weight)
        traced = jax.make_jaxpr(lambda w: gather(w, wanted))(weight)
    np.testing.assert_array_equal(out, numbers)
    assert out.sharding.is_equivalent_to(jax.NamedSharding(mesh, wanted), 4)
    assert grad.sharding.is_equivalent_to(jax.NamedSharding(mesh, stored), 4)
    np.testing.assert_array_equal(grad, jax.jit(jnp.cos)(numbers))
    (moved,) = [one for one in traced.eqns if one.primitive.name == "reshard"]
    assert moved.invars[0].aval.ndim == axes


def test_what_is_whole_is_left_alone() -> None:
    mesh = make_mesh(whole({"dp": 2, "tp": 2}))
    with jax.set_mesh(mesh):
        weight = jnp.zeros((4, 8, 4))
        assert gather(weight, P(None, None, None)) is weight
