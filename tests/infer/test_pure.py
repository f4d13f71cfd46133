"""What everybody writes first: one's own loss, its derivatives, and jnp on weights and logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneox.loading import LoadedModel
from tests.infer.models import speaker

BATCH, LENGTH = 4, 12
ONE = 1e-6  # of float32 sums in another order, relative to the largest


@pytest.fixture(scope="module")
def tokens() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, 255, (BATCH, LENGTH)))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return speaker()


@pytest.fixture(scope="module")
def on_mesh() -> LoadedModel:
    return speaker("dp=2,tp=2")


def own_loss(model: LoadedModel, params, tokens: jax.Array) -> jax.Array:
    logprobs = jax.nn.log_softmax(model.logits(params, tokens[:, :-1]))
    return -jnp.mean(jnp.take_along_axis(logprobs, tokens[:, 1:, None], axis=-1))


def close(found, expected, bound: float = ONE) -> None:
    def check(a: jax.Array, b: jax.Array) -> None:
        a, b = np.asarray(a), np.asarray(b)
        assert np.abs(a - b).max() <= bound * max(np.abs(b).max(), 1e-3)

    jax.tree.map(check, dict(found), dict(expected))


def test_the_first_line_that_everybody_writes(model: LoadedModel, tokens: jax.Array) -> None:
    losses = -jnp.take_along_axis(
        jax.nn.log_softmax(model(tokens))[:, :-1], tokens[:, 1:, None], axis=-1
    )[..., 0]
    np.testing.assert_allclose(
        losses, model.token_losses(model.params, tokens), rtol=1e-5, atol=1e-5
    )
    assert model.loss(model.params, tokens) == pytest.approx(float(losses.mean()), rel=1e-6)


def test_weights_are_arrays_like_any_other(model: LoadedModel, on_mesh: LoadedModel) -> None:
    for one in (model, on_mesh):
        params = one.params
        assert jnp.linalg.svd(params["layers.mlp.up"][0])[1].shape == (32,)
        assert (params["embed.tokens"] @ params["unembed.weight"]).shape == (640, 640)
        assert one.params is params


def test_a_gradient_is_the_same_by_every_way(model: LoadedModel, tokens: jax.Array) -> None:
    params = model.params
    own = jax.grad(lambda p: own_loss(model, p, tokens))(params)
    for loss in (model.loss, jax.jit(model.loss)):
        close(jax.grad(loss)(params, tokens), own)
    direction = jax.tree.map(lambda w: jnp.ones_like(w), dict(params))
    slope = jax.jvp(lambda p: own_loss(model, p, tokens), (dict(params),), (direction,))[1]
    assert slope == pytest.approx(sum(float(g.sum()) for g in own.values()), rel=1e-4)


def test_hessian_vector_products_agree(model: LoadedModel, tokens: jax.Array) -> None:
    """Forward over reverse, reverse over reverse, and a difference of gradients."""
    params = dict(model.params)
    random = np.random.default_rng(1)
    v = {name: jnp.asarray(random.normal(size=w.shape), jnp.float32) for name, w in params.items()}

    def gradient(p):
        return jax.grad(lambda q: own_loss(model, q, tokens))(p)

    forward = jax.jit(lambda p: jax.jvp(gradient, (p,), (v,))[1])(params)

    def along(p):
        return sum(jnp.vdot(g, v[name]) for name, g in gradient(p).items())

    close(jax.jit(jax.grad(along))(params), forward, 1e-4)


def test_vmap_and_scan(model: LoadedModel, tokens: jax.Array) -> None:
    params = dict(model.params)
    scales = jnp.array([1.0, 1.01, 0.9])
    perturbed = jax.tree.map(lambda w: w[None] * scales.reshape(-1, *(1,) * w.ndim), params)
    found = jax.jit(jax.vmap(lambda p: own_loss(model, p, tokens)))(perturbed)
    for scale, loss in zip(scales, found, strict=True):
        one = jax.tree.map(lambda w, s=scale: w * s, params)
        assert loss == pytest.approx(float(own_loss(model, one, tokens)), rel=1e-5)
    rows = tokens.reshape(2, BATCH // 2, LENGTH)

    def add(total: jax.Array, part: jax.Array) -> tuple[jax.Array, None]:
        return total + own_loss(model, params, part), None

    total, _ = jax.lax.scan(add, jnp.float32(0), rows)
    assert total / 2 == pytest.approx(float(own_loss(model, params, tokens)), rel=1e-5)


@pytest.mark.slow
def test_on_a_mesh_the_same_code_has_the_same_numbers(
    model: LoadedModel, on_mesh: LoadedModel, tokens: jax.Array
) -> None:
    def everything(one: LoadedModel) -> dict[str, jax.Array]:
        params = dict(one.params)
        gradient = jax.jit(jax.grad(lambda p: own_loss(one, p, tokens)))
        ones = jax.tree.map(jnp.ones_like, params)
        hessian = jax.jit(lambda p: jax.jvp(gradient, (p,), (ones,))[1])(params)
        stacked = jax.tree.map(lambda w: jnp.stack([w, 0.9 * w]), params)
        return {
            "logits": one(tokens),
            "losses": one.token_losses(params, tokens),
            "loss": one.loss(
                params, tokens, jnp.broadcast_to(jnp.arange(LENGTH - 1), (BATCH, LENGTH - 1))
            ),
            "vmap": jax.vmap(lambda p: own_loss(one, p, tokens))(stacked),
            **{f"gradient of {name}": g for name, g in gradient(params).items()},
            **{f"hessian of {name}": h for name, h in hessian.items()},
        }

    close(everything(on_mesh), everything(model), 5 * ONE)
