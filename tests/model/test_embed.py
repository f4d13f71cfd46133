"""The table of tokens, looked up where it is stored."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxneox.model.parameters import Declaration
from jaxneox.parallel.mesh import make_mesh, whole
from tests.parallel.meshes import MODEL
from tests.reference.compare import relative_l2

SIZES = whole({"dp": 2, "cp": 2, "tp": 2})
LAID = P(None, "dp", "cp", None)


@pytest.mark.parametrize("kind", ["rotary", "learned", "sinusoidal"])
@pytest.mark.parametrize(
    ("vocab", "stored"),
    [
        (64, P("tp", None)),
        (64, P("tp", "dp")),
        (64, P("tp", ("dp", "cp"))),
        (65, P(None, ("tp", "dp", "cp"))),  # a vocabulary that tp does not divide
    ],
    ids=str,
)
def test_the_result_and_the_gradient_are_those_of_the_whole_table(
    kind: str, vocab: int, stored: P
) -> None:
    positions = dataclasses.replace(MODEL.positions, kind=kind)
    declared = Declaration(dataclasses.replace(MODEL, positions=positions, vocab_size=vocab))
    own = {n: w for n, w in declared.init(jax.random.key(0)).items() if n.startswith("embed.")}
    random = np.random.default_rng(0)
    tokens = random.integers(0, vocab, (1, 4, 16)).astype(np.int32)
    factor = random.normal(size=(1, 4, 16, MODEL.hidden_size)).astype(np.float32)

    def embedded(table: jax.Array) -> jax.Array:
        embed = declared.part("embed", own | {"embed.tokens": table})
        return embed(jnp.asarray(tokens), jnp.arange(16), LAID, jnp.dtype("float32"))

    mesh = make_mesh(SIZES)
    with jax.set_mesh(mesh):
        table = jax.device_put(own["embed.tokens"], NamedSharding(mesh, stored))
        weights = jax.device_put(factor, NamedSharding(mesh, LAID))
        x, back = jax.jit(lambda w: jax.vjp(embedded, w))(table)
        (gradient,) = jax.jit(back)(weights)
    assert x.sharding.is_equivalent_to(NamedSharding(mesh, LAID), 4)
    assert gradient.sharding.is_equivalent_to(NamedSharding(mesh, stored), 2)
    more = {"learned": own.get("embed.positions")}.get(kind)
    expected = np.asarray(own["embed.tokens"])[tokens]
    if more is not None:
        expected = expected + np.asarray(more)[None, None, :16]
    if kind != "sinusoidal":
        np.testing.assert_array_equal(x, expected)
    else:
        assert np.abs(np.asarray(x) - expected).max() == pytest.approx(1)  # a cosine of 0
    sums = np.zeros((vocab, MODEL.hidden_size))
    np.add.at(sums, tokens, factor)
    assert relative_l2(np.asarray(gradient), sums) <= 1e-6  # float32's sums of a few terms
