"""Weights made whole for a layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxneox.model.gather import gather, reshard_in_steps
from jaxneox.parallel.mesh import make_mesh, whole


@pytest.mark.parametrize(
    ("stored", "wanted", "axes"),
    [
        (P("dp", "tp", None, None), P(None, "tp", None, None), 2),  # queries, keys and values
        (P("tp", None, None, "dp"), P("tp", None, None, None), 2),  # attention's output
        (P(None, "tp", None, "dp"), P(None, "tp", None, None), 2),
        (P(None, None, ("tp", "dp"), None), P(None, None, "tp", None), 2),
        (P("dp", None, None, None), P(None, None, None, None), 2),
        (P(("tp", "dp"), None, None, None), P("tp", None, None, None), 2),
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


@pytest.mark.parametrize(
    ("before", "after", "between"),
    [
        (P(("dp", "cp"), "tp"), P(None, "tp"), [P("dp", "tp"), P(None, "tp")]),
        (P("tp", "dp"), P(None, "tp"), [P("tp", None), P(None, "tp")]),
        (P(("dp", "pp"), None), P("pp", "dp"), []),
        (
            P(None, None, ("tp", "dp", "cp")),
            P("dp", "cp", None),
            [P(None, "cp", ("tp", "dp")), P("dp", "cp", "tp"), P("dp", "cp", None)],
        ),
        (P(None, ("dp", "cp")), P(("dp", "cp"), None), [P(("dp", "cp"), None)]),
        (P(("dp", "tp")), P(("tp", "dp")), []),
    ],
    ids=str,
)
def test_one_mesh_axis_moves_at_a_time_unless_several_go_to_one_place(
    before: P, after: P, between: list[P]
) -> None:
    mesh = make_mesh(whole({"pp": 1, "dp": 2, "cp": 2, "tp": 2}))
    numbers = np.arange(8.0 ** len(before)).reshape((8,) * len(before))
    with jax.set_mesh(mesh):
        x = jax.device_put(numbers, jax.NamedSharding(mesh, before))
        traced = jax.make_jaxpr(lambda x: reshard_in_steps(x, after))(x)
        moved = jax.jit(lambda x: reshard_in_steps(x, after))(x)
    steps = [one for one in traced.eqns if one.primitive.name == "reshard"]
    assert [one.outvars[0].aval.sharding.spec for one in steps] == (between or [after])
    np.testing.assert_array_equal(moved, numbers)


def test_a_partial_sum_goes_back_to_the_devices_that_store_the_parts() -> None:
    """Every device multiplies its rows with the whole weight, and is sent its part of the sum."""
    mesh = make_mesh(whole({"dp": 2, "cp": 2, "tp": 2}))
    stored, wanted = P(("dp", "cp"), "tp"), P(None, "tp", reduced={"dp", "cp"})
    random = np.random.default_rng(0)
    weight, rows = random.normal(size=(8, 4)), random.normal(size=(4, 8))
    with jax.set_mesh(mesh):
        w = jax.device_put(weight.astype(np.float32), jax.NamedSharding(mesh, stored))
        x = jax.device_put(rows.astype(np.float32), jax.NamedSharding(mesh, P(("dp", "cp"), None)))
        split = P(("dp", "cp"), "tp")

        def loss(w: jax.Array) -> jax.Array:
            return jnp.sum(jnp.einsum("BD,DV->BV", x, gather(w, wanted), out_sharding=split) ** 2)

        gradient = jax.jit(jax.grad(loss))(w)
    assert gradient.sharding.is_equivalent_to(jax.NamedSharding(mesh, stored), 2)
    # float32's rounding of sums of eight terms
    np.testing.assert_allclose(gradient, 2 * rows.T @ (rows @ weight), rtol=1e-5, atol=1e-5)
