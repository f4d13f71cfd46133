"""Our normal numbers are JAX's, bit by bit, wherever they lie."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxneox.model import draw


@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 64), (257, 129)])
def test_they_are_the_numbers_of_jax(shape: tuple[int, ...]) -> None:
    key = jax.random.fold_in(jax.random.key(3), 5)
    found = np.asarray(jax.jit(draw.normal, static_argnums=1)(key, shape))
    expected = np.asarray(jax.jit(jax.random.normal, static_argnums=1)(key, shape))
    assert found.dtype == np.float32 and np.array_equal(found, expected)


def test_layers_have_keys_of_their_own() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    ours = jax.jit(jax.vmap(lambda key: draw.normal(key, (6, 10))))(keys)
    theirs = jax.jit(jax.vmap(lambda key: jax.random.normal(key, (6, 10))))(keys)
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_they_are_the_same_on_a_mesh() -> None:
    mesh = jax.make_mesh((2, 4), ("a", "b"))
    laid = NamedSharding(mesh, PartitionSpec("a", "b"))
    with jax.set_mesh(mesh):
        own = jax.jit(lambda key: draw.normal(key, (8, 16)), out_shardings=laid)(jax.random.key(1))
    assert np.array_equal(np.asarray(own), np.asarray(draw.normal(jax.random.key(1), (8, 16))))


@pytest.mark.parametrize("changed", ["generator", "numbering"])
def test_others_of_jax_are_left_to_it(changed: str) -> None:
    """Another generator, or the numbers that depend on how an array is split."""
    key = jax.random.key(2, impl="rbg" if changed == "generator" else None)
    with jax.threefry_partitionable(changed == "generator"):
        assert not draw.is_plain(key)
        expected = jax.random.normal(key, (5, 3))
        assert np.array_equal(np.asarray(draw.normal(key, (5, 3))), np.asarray(expected))
