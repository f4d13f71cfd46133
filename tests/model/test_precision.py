"""What the compute dtype and rematerialisation may change, and how much."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxneox.config.schema import (
    AttentionConfig,
    MlpConfig,
    ModelConfig,
    NormConfig,
    PositionConfig,
)
from jaxneox.config.schema import RematConfig as Remat
from jaxneox.model import Model, Noise
from jaxneox.model.kernels.einsum import attend, visible
from jaxneox.model.norms import KINDS, norm
from tests.model.adapter import HASTE, ONE_DEVICE, one_device
from tests.reference.compare import relative_l2, worst_leaf
from tests.reference.parameters import random_params

MODEL = ModelConfig(
    num_layers=3,
    hidden_size=32,
    vocab_size=40,
    seq_length=16,
    attention=AttentionConfig(num_heads=4, kv_heads=4, head_dim=8, dropout=0.1),
    mlp=MlpConfig(48, activation="gelu_tanh"),
    positions=PositionConfig("rotary", rotary_fraction=0.5),
    parallel_residual=True,
    tied_embedding=False,
    hidden_dropout=0.1,
)
BITS = {"bfloat16": 8, "float16": 11}  # of the significand


def loss_and_grads(model: Model, dropout: bool = False) -> tuple[float, dict[str, np.ndarray]]:
    tokens, labels = np.random.default_rng(1).integers(0, MODEL.vocab_size, (2, 1, 4, 16))
    with one_device(model.cfg):
        rows = jnp.arange(4, dtype=jnp.int32)[None]
        noise = Noise(jax.random.key(2), rows) if dropout else None
        weights = jnp.full(labels.shape, 1 / labels.size, jnp.float32)
        run = jax.value_and_grad(lambda p: model.loss_sum(p, tokens, labels, weights, noise))
        loss, grads = jax.jit(run, compiler_options=HASTE)(random_params(model.cfg, 0))
        assert loss.dtype == jnp.float32
        assert all(g.dtype == jnp.float32 for g in grads.values())
        return float(loss), jax.device_get(grads)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", BITS)
def test_half_precision_is_its_rounding_away(dtype) -> None:
    cfg = dataclasses.replace(MODEL, hidden_dropout=0.0)
    expected, expected_grads = loss_and_grads(Model(cfg, ONE_DEVICE))
    loss, grads = loss_and_grads(Model(cfg, ONE_DEVICE, compute=dtype))
    rounding = 2.0 ** -BITS[dtype]
    # the loss averages over 64 tokens' roundings; a gradient passes some twenty roundings in a row
    assert 0 < abs(loss - expected) <= rounding * expected
    error, leaf = worst_leaf(grads, expected_grads)
    assert rounding / 10 <= error <= 20 * rounding, leaf


@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_keeps_its_input_alone(kind) -> None:
    """In the input's own dtype: what it computes in float32 is several times as large."""
    with one_device(MODEL):
        layer = norm(NormConfig(kind), ("embed",), nnx.Rngs(0), D=32)
        _, pull = jax.vjp(layer, jnp.ones((4, 16, 32), jnp.bfloat16))
    kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.size >= 4 * 16]
    assert [leaf.dtype for leaf in kept] == [jnp.bfloat16]


def test_scores_in_float32() -> None:
    """A bfloat16 score between 16 and 32 is rounded by up to 1/16, and its weight by e to that."""
    random = np.random.default_rng(0)
    q, k, v = (jnp.asarray(random.normal(size=(1, 32, 2, 16)) * 3, jnp.bfloat16) for _ in range(3))
    q, positions = q[:, :, :, None], jnp.arange(32)
    cfg = AttentionConfig(num_heads=2, kv_heads=2, head_dim=16)  # the factor 1/4 rounds nothing

    def mixed(fp32: bool, dtype) -> np.ndarray:
        scores = dataclasses.replace(cfg, softmax_fp32=fp32)
        arrays = (x.astype(dtype) for x in (q, k, v))
        y = attend(*arrays, visible(positions, positions, None), None, None, scores)
        assert y.dtype == dtype
        return np.asarray(y, np.float64)

    exact = mixed(True, jnp.float32)
    # with float32 scores only the weights and the result are rounded, each by at most 2^-9
    assert relative_l2(mixed(True, jnp.bfloat16), exact) <= 2 * 2.0**-9
    assert relative_l2(mixed(False, jnp.bfloat16), exact) > 2 * relative_l2(
        mixed(True, jnp.bfloat16), exact
    )


@pytest.fixture(scope="module")
def without_remat() -> tuple[float, dict[str, np.ndarray]]:
    return loss_and_grads(Model(MODEL, ONE_DEVICE, remat=Remat("none")), dropout=True)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["full", "dots"])
def test_rematerialisation_changes_nothing(policy, without_remat) -> None:
    expected, expected_grads = without_remat
    loss, grads = loss_and_grads(Model(MODEL, ONE_DEVICE, remat=Remat(policy)), dropout=True)
    assert loss == pytest.approx(expected, rel=1e-6)
    error, leaf = worst_leaf(grads, expected_grads)
    assert error <= 1e-6, leaf


def test_rematerialisation_saves_memory() -> None:
    """The less is kept, the less memory the same gradient takes."""
    cfg = dataclasses.replace(MODEL, num_layers=8)
    tokens = jax.ShapeDtypeStruct((1, 4, 16), jnp.int32)
    weights = jax.ShapeDtypeStruct((1, 4, 16), jnp.float32)
    sizes = {}
    for policy in ("none", "dots", "full"):
        model = Model(cfg, ONE_DEVICE, remat=Remat(policy))  # type: ignore[arg-type]
        params = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in model.shapes.items()}
        with one_device(cfg):
            gradient = jax.jit(jax.grad(model.loss_sum), compiler_options=HASTE)
            memory = gradient.lower(params, tokens, tokens, weights).compile().memory_analysis()
        sizes[policy] = memory.temp_size_in_bytes
    assert sizes["none"] > 1.5 * sizes["dots"] > 1.5 * sizes["full"]


def test_the_gradient_of_a_frequent_token_is_summed_in_float32() -> None:
    """In bfloat16 a sum of ones stops at 256."""
    model = Model(MODEL, ONE_DEVICE, compute="bfloat16")
    tokens, positions = jnp.zeros((1, 1, 2000), jnp.int32), jnp.arange(2000, dtype=jnp.int32)

    def total(params):
        embedded = model._embed(model._outer_modules(params).embed, tokens, positions)
        assert embedded.dtype == jnp.bfloat16
        return jnp.sum(embedded.astype(jnp.float32))

    with one_device(MODEL):
        grads = jax.jit(jax.grad(total))(random_params(MODEL, 0))
    assert jax.device_get(grads["embed.tokens"][0]).tolist() == [2000.0] * MODEL.hidden_size
