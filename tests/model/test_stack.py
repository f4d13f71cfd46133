"""Layers that are scanned by a pattern: the numbers of layers that are scanned one by one."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxneox.config.layer_schema import shortest_pattern
from jaxneox.config.schema import AttentionConfig, MlpConfig, ModelConfig
from jaxneox.errors import UserError
from jaxneox.model import Model
from jaxneox.model.param import normal, param
from jaxneox.model.stack import layers_of, stacked
from jaxneox.model.taps import choose
from jaxneox.parallel.mesh import make_mesh, whole
from jaxneox.parallel.rules import rules_for

CFG = ModelConfig(4, 16, 32, 8, AttentionConfig(2, 2, 8), MlpConfig(32), hidden_dropout=0.1)


def loss_and_gradients(cfg, sizes, micro=1):
    sizes = whole(sizes)
    model, mesh = Model(cfg, rules_for(sizes, 0, False)), make_mesh(sizes)
    with jax.set_mesh(mesh):
        params = model.init(jax.random.key(0))
        specs = {n: model.layout.parameter(n, model.axes[n], w.shape) for n, w in params.items()}
        params = {
            n: jax.device_put(w, jax.NamedSharding(mesh, specs[n])) for n, w in params.items()
        }
        tokens = jnp.arange(micro * 4 * 8).reshape(micro, 4, 8) * 7 % 32
        weights = jnp.ones(tokens.shape)

        def loss(params):
            return model.loss_sum(params, tokens, tokens, weights)

        return jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(loss))(params))


@pytest.mark.parametrize(
    ("sizes", "micro"), [({}, 1), ({"dp": 2, "tp": 2}, 1), ({"pp": 2}, 2)], ids=str
)
def test_a_repeated_pattern_is_the_same_function(sizes, micro):
    one = loss_and_gradients(CFG, sizes, micro)
    two = loss_and_gradients(replace(CFG, pattern=("dense", "dense")), sizes, micro)
    # the same operations on the same numbers; XLA may fuse them otherwise: roundings of float32
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, two)


def test_taps_of_a_repeated_pattern():
    tokens = jnp.arange(16).reshape(2, 8)
    kept = []
    for pattern in (("dense",), ("dense", "dense")):
        cfg = replace(CFG, pattern=pattern)
        model, mesh = Model(cfg, rules_for(whole({}), 0, False)), make_mesh(whole({}))
        with jax.set_mesh(mesh):
            params = model.init(jax.random.key(0))
            taps = choose(["layers.1.residual", "layers.2.residual"], cfg)
            kept.append(jax.jit(lambda p, m=model, t=taps: m.trace(p, tokens, t)[1])(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *kept)
    assert not np.allclose(kept[0]["layers.1.residual"], kept[0]["layers.2.residual"])


class Small(nnx.Module):
    """A layer of two parameters, of which one kind lacks the second."""

    def __init__(self, kind, key):
        rngs = nnx.Rngs(key)
        self.both = param(rngs, ("embed",), normal(1.0), D=3)
        if kind == "dense":
            self.own = param(rngs, ("embed",), normal(1.0), D=3)


def test_a_parameter_is_stacked_over_the_layers_that_have_it():
    kinds = ("dense", "mamba", "dense", "mamba", "mamba")
    key = jax.random.key(3)
    made = stacked(Small, kinds, key)
    each = [Small(kind, k) for kind, k in zip(kinds, jax.random.split(key, 5), strict=True)]
    np.testing.assert_array_equal(made.both[...], np.stack([one.both[...] for one in each]))
    own = np.stack([each[number].own[...] for number in (0, 2)])
    np.testing.assert_array_equal(made.own[...], own)
    assert made.own.get_metadata("axes") == ("layers", "embed")


def test_layers_of_kinds():
    assert layers_of(["mamba"], ("dense", "mamba", "mamba")) == (1, 2)


@pytest.mark.parametrize(
    ("kinds", "pattern"),
    [
        (("dense",) * 4, ("dense",)),
        (("dense", "mamba") * 3, ("dense", "mamba")),
        (("dense", "dense", "mamba"), ("dense", "dense", "mamba")),
    ],
)
def test_the_shortest_pattern(kinds, pattern):
    assert shortest_pattern(kinds) == pattern


def test_stages_hold_whole_patterns():
    from jaxneox.parallel.divides import _check_stages

    with pytest.raises(UserError, match="no multiple of the 2 layers whose kinds repeat"):
        _check_stages(2, 1, 6, 2)
    _check_stages(3, 1, 6, 2)
