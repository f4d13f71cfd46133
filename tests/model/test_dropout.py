"""Masks of dropout: which numbers they depend on, and which they do not."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxneox.config.schema import AttentionConfig, MlpConfig, ModelConfig
from jaxneox.model import Model, Noise
from jaxneox.model.context import Context, TokenPositions
from jaxneox.model.dropout import dropout, dropout_heads
from jaxneox.parallel.mesh import make_mesh
from jaxneox.parallel.rules import rules_for

KEY = jax.random.key(5)
BATCH, LENGTH, WIDTH = 4, 8, 32
MODEL = ModelConfig(
    num_layers=2,
    hidden_size=WIDTH,
    vocab_size=16,
    seq_length=LENGTH,
    attention=AttentionConfig(num_heads=4, kv_heads=4, head_dim=8, dropout=0.5),
    mlp=MlpConfig(size=32),
    hidden_dropout=0.5,
    parallel_residual=True,
)


def noise(*rows: int, key: jax.Array = KEY) -> Noise:
    return Noise(key, jnp.array(rows, jnp.int32))


def masks(x: np.ndarray, rate: float, source: Noise) -> np.ndarray:
    """x [B, T, D] or [B, K, G, T, S] by the function for its number of axes."""
    source = source._replace(positions=jnp.arange(x.shape[1], dtype=jnp.int32))
    with jax.set_mesh(make_mesh({"dp": 1, "tp": 1})):
        cut = dropout if x.ndim == 3 else dropout_heads
        return np.asarray(jax.jit(cut, static_argnums=1)(jnp.asarray(x), rate, source))


SHAPES = [(200, 200), (4, 2, 60, 80)]  # of a row: hidden states, and attention's weights


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_share_that_falls_and_the_growth_of_the_rest(shape: tuple[int, ...]) -> None:
    x = np.full((1, *shape), 3.0, np.float32)
    for rate in (0.1, 0.5):
        y = masks(x, rate, noise(0))
        assert set(np.unique(y)) == {np.float32(0), np.float32(3 / np.float32(1 - rate))}
        deviation = math.sqrt(rate * (1 - rate) / x.size)
        assert abs((y == 0).mean() - rate) <= 5 * deviation
    np.testing.assert_array_equal(masks(x, 0.0, noise(0)), x)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_mask_belongs_to_its_row_step_layer_and_place(shape: tuple[int, ...]) -> None:
    def ones(rows: int) -> np.ndarray:
        return np.ones((rows, *shape), np.float32)

    together = masks(ones(4), 0.5, noise(0, 1, 2, 3))
    for split in ([0, 1], [2, 3], [3, 0]):
        np.testing.assert_array_equal(masks(ones(2), 0.5, noise(*split)), together[split])
    steps = [noise(0, key=jax.random.fold_in(KEY, step)) for step in (0, 1)]
    others = [masks(ones(1), 0.5, step.at(place))[0] for step in steps for place in (0, 1, 2)]
    assert_independent([*together, *others])


def assert_independent(kept: list[np.ndarray]) -> None:
    """Masks of rate one half agree in half of their elements, up to five deviations."""
    bits = [np.asarray(k).ravel() != 0 for k in kept]
    for i in range(len(bits)):
        for j in range(i):
            assert abs((bits[i] == bits[j]).mean() - 0.5) <= 2.5 / math.sqrt(bits[i].size), (i, j)


def test_heads_have_masks_of_their_own() -> None:
    assert_independent(list(masks(np.ones((1, 4, 1, 60, 80), np.float32), 0.5, noise(0))[0]))


def stream(cfg: ModelConfig, dp: int, tp: int, sequence: bool, source: Noise | None) -> np.ndarray:
    """What leaves the layers when nothing but their output biases enters: [B, T, D].

    These are 1, 10, 100, 1000 in order of attention and MLP of both layers, so that each decimal
    digit is the mask of one place.
    """
    rules = rules_for({"dp": dp, "tp": tp}, 0, sequence)
    mesh, model = make_mesh({"dp": dp, "tp": tp}), Model(cfg, rules)
    params = {name: np.zeros(shape, np.float32) for name, shape in model.shapes.items()}
    for layer in range(2):
        params["layers.attention.out_bias"][layer] = 10.0 ** (2 * layer)
        params["layers.mlp.down_bias"][layer] = 10.0 ** (2 * layer + 1)
    with jax.set_mesh(mesh):
        laid = {
            name: jax.device_put(params[name], NamedSharding(mesh, rules.weight(*axes)))
            for name, axes in model.axes.items()
        }
        spec = NamedSharding(mesh, rules.activation(None, "batch", "stream", "embed"))
        x = jax.device_put(np.zeros((1, BATCH, LENGTH, WIDTH), np.float32), spec)
        if source is not None:
            rows = jax.device_put(source.rows[None], NamedSharding(mesh, P(None, "dp")))
            source = Noise(source.key, rows, jnp.asarray(rules.order(LENGTH)))
        positions = TokenPositions(jnp.asarray(rules.order(LENGTH)))

        def layers(weights, x, source):
            return model.run_layers(weights, x, Context(positions, rules, noise=source))[0]

        run = jax.jit(layers)
        return np.asarray(run(laid, x, source)).sum(axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [True, False])
def test_every_layer_and_branch_drops_something_else(parallel: bool) -> None:
    cfg = dataclasses.replace(MODEL, parallel_residual=parallel)
    y = stream(cfg, 1, 1, False, noise(0, 1, 2, 3)) / 2
    digits = [(y // 10**place) % 10 for place in range(4)]
    assert all(set(np.unique(digit)) == {0.0, 1.0} for digit in digits)
    assert_independent(digits)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dp", "tp", "sequence"), [(2, 2, False), (2, 2, True)], ids=["dp2-tp2", "sequence"]
)
def test_the_same_masks_on_every_mesh(dp: int, tp: int, sequence: bool) -> None:
    rows = noise(0, 1, 2, 3)
    expected = stream(MODEL, 1, 1, False, rows)
    np.testing.assert_array_equal(stream(MODEL, dp, tp, sequence, rows), expected)


def test_nothing_is_dropped_without_noise() -> None:
    np.testing.assert_array_equal(stream(MODEL, 1, 1, False, None), 1111.0)
