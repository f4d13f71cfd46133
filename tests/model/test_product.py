"""Gradients of products that are written out, against those that jax derives."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxneox.model import product
from jaxneox.model.product import as_derived, out_of
from jaxneox.parallel.mesh import make_mesh, whole


@pytest.mark.parametrize("reduced", [set(), {"dp", "cp"}], ids=["whole", "over dp and cp"])
def test_the_written_gradients_of_a_partial_sum_are_those_that_are_derived(
    reduced: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CPUs training takes the derived ones, on accelerators those that are written out."""
    monkeypatch.setattr(product, "platform", lambda: "tpu")
    mesh, random = make_mesh(whole({"dp": 2, "cp": 2, "tp": 2})), np.random.default_rng(0)
    x, w, d = (random.normal(size=s).astype(np.float32) for s in ((4, 6, 8), (8, 5), (4, 6, 5)))
    partial = P("dp", "cp", None, unreduced={"tp"})

    def gradients(x: jax.Array, w: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
        def product_of(x: jax.Array, w: jax.Array) -> jax.Array:
            w = jax.reshard(w, P("tp", None, reduced=reduced))
            return jax.reshard(out_of(x, w, partial), P("dp", "cp", None))

        return jax.vjp(product_of, x, w)[1](d)

    with jax.set_mesh(mesh):
        specs = (P("dp", "cp", "tp"), P("tp", None), P("dp", "cp", None))
        laid = [
            jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip((x, w, d), specs, strict=True)
        ]
        written = jax.jit(gradients)(*laid)
        with as_derived():
            derived = jax.jit(lambda *a: gradients(*a))(*laid)
        text = jax.jit(gradients).lower(*laid).as_text()
    expected = np.einsum("BTY,XY->BTX", d, w), np.einsum("BTX,BTY->XY", x, d)
    for one, two, number in zip(written, derived, expected, strict=True):
        # float32's rounding of sums of some ten products
        np.testing.assert_allclose(one, number, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
    assert "transpose" not in text  # jax derives the weight's gradient as [Y, X]
