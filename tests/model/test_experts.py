"""Mixtures of experts in training against torch in float64, and their parts against plain loops."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneox.config.schema import ExpertsConfig, ModelConfig
from jaxneox.errors import UserError
from jaxneox.model import Noise
from jaxneox.model.experts.capacity import capacity, within
from jaxneox.model.experts.device import MixtureSettings
from jaxneox.model.experts.mixture import Matrices, mixture
from jaxneox.model.experts.products import InBlocks, Products, Ragged
from jaxneox.model.product import as_derived
from jaxneox.parallel.mesh import make_mesh, whole
from jaxneox.parallel.rules import rules_for
from tests.model.adapter import Arrays, on_device, one_device
from tests.model.variants import EXPERTS, configure
from tests.parallel.meshes import HASTE
from tests.reference.compare import worst_leaf
from tests.reference.parameters import random_params

ROWS = 3  # sequences of a batch


def training_loss(cfg: ModelConfig, params: Arrays, rows: tuple[np.ndarray, ...]):
    """The loss and what the layers add up of a batch of rows with weights, and the gradients."""
    tokens, labels, weights = (x[None] for x in rows)
    noise = Noise(jax.random.key(0), jnp.arange(ROWS, dtype=jnp.int32)[None])
    with one_device(cfg) as model:
        gradient = jax.jit(
            jax.value_and_grad(
                lambda p: model.loss_and_sums(p, tokens, labels, weights, noise), has_aux=True
            ),
            compiler_options=HASTE,
        )
        return gradient(*on_device(params))


def batch(cfg: ModelConfig) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(3)
    tokens, labels = random.integers(0, cfg.vocab_size, (2, ROWS, cfg.seq_length))
    return tokens, labels, random.random((ROWS, cfg.seq_length)).astype(np.float32)


def torch_training_loss(cfg: ModelConfig, params: Arrays, rows: tuple[np.ndarray, ...]):
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    from tests.reference import neox_torch

    leaves = {
        n: torch.tensor(x, dtype=torch.float64, requires_grad=True) for n, x in params.items()
    }
    tokens, labels = (torch.tensor(x) for x in rows[:2])
    weights = torch.tensor(rows[2], dtype=torch.float64)
    logits, of_rows = neox_torch.logits_and_losses(leaves, cfg, tokens, training=True)
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none"
    )
    loss = (each * weights.flatten()).sum() + (of_rows * weights.sum(1)).sum()
    grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return loss.item(), {n: g.numpy() for n, g in zip(leaves, grads, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("variant", EXPERTS)
def test_training_is_the_function_that_torch_computes(variant: str) -> None:
    cfg = configure(variant)
    params, rows = random_params(cfg, seed=11), batch(cfg)
    expected, expected_grads = torch_training_loss(cfg, params, rows)
    (loss, sums), grads = training_loss(cfg, params, rows)
    assert float(loss) == pytest.approx(expected, rel=1e-6)  # float32 rounds by 6e-8
    error, leaf = worst_leaf({n: np.asarray(g) for n, g in grads.items()}, expected_grads)
    assert error <= 1e-5, leaf
    load = np.asarray(sums["experts_load"])
    assert load.shape == (cfg.kinds.count("experts"), cfg.experts.count)
    assert load.sum(1) == pytest.approx(rows[2].sum(), rel=1e-6)


@pytest.mark.slow
def test_all_tokens_may_choose_one_expert() -> None:
    cfg = configure("experts_topk parallel")
    params, rows = random_params(cfg, seed=5), batch(cfg)
    params["layers.norm2.bias"][:1] += 20.0  # so that what the router reads is above zero
    router = params["layers.experts.router.weight"]
    router[:] = [0.0, 0.005, 0.01, 0.0]
    expected, expected_grads = torch_training_loss(cfg, params, rows)
    (loss, sums), grads = training_loss(cfg, params, rows)
    shares = np.asarray(sums["experts_load"])[0] / rows[2].sum()
    assert shares == pytest.approx([0, 0.5, 0.5, 0], abs=1e-6)
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    error, leaf = worst_leaf({n: np.asarray(g) for n, g in grads.items()}, expected_grads)
    assert error <= 1e-5, leaf


def plain(counts: np.ndarray, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Multiply each row by its expert's matrix, one after the other."""
    experts = np.repeat(np.arange(len(counts)), counts)
    y = np.zeros((len(x), w.shape[2]))
    for i, e in enumerate(experts):
        y[i] = x[i] @ w[e]
    return y


@pytest.mark.parametrize("way", [InBlocks, Ragged])
@pytest.mark.parametrize("counts", [[3, 0, 17, 1], [0, 0, 0, 0], [0, 24, 0, 0]], ids=str)
def test_products_are_those_of_each_row(
    way: Callable[[jax.Array, int], Products], counts: list[int]
) -> None:
    random, rows = np.random.default_rng(0), 24
    x, d, w = (random.normal(size=s) for s in ((rows, 5), (rows, 7), (4, 5, 7)))
    dot, used = way(jnp.asarray(counts, jnp.int32), rows), np.arange(rows) < sum(counts)
    x32, d32, w32 = (jnp.asarray(a, jnp.float32) for a in (x, d, w))
    with jax.default_matmul_precision("highest"):
        into, back, outer = dot.into(x32, w32), dot.back(d32, w32), dot.outer(x32, d32)
    experts = np.repeat(np.arange(4), counts)
    sums = np.zeros((4, 5, 7))
    np.add.at(sums, experts, x[used][:, :, None] * d[used][:, None])
    # sums of up to 24 products of numbers near 1, which float32 rounds by 6e-8
    assert np.asarray(into) == pytest.approx(plain(np.asarray(counts), x, w), abs=1e-5)
    assert np.asarray(back) == pytest.approx(
        plain(np.asarray(counts), d, w.transpose(0, 2, 1)), abs=1e-5
    )
    assert np.asarray(outer) == pytest.approx(sums, abs=2e-5)


def test_the_mixture_is_its_formula() -> None:
    layout = rules_for(whole({}), 0, False)
    random = np.random.default_rng(0)
    settings = MixtureSettings(4, jax.nn.silu, layout)
    shapes = ((2, 6, 8), (2, 6, 2), (4, 8, 5), (4, 8, 5), (4, 5, 8))
    with jax.set_mesh(make_mesh({})), jax.default_matmul_precision("highest"):
        x, p, *w = (jnp.asarray(0.5 * random.normal(size=s), jnp.float32) for s in shapes)
        axes = [("experts", "embed", "mlp")] * 2 + [("experts", "mlp", "embed")]
        w = [jax.reshard(m, layout.weight(*names)) for m, names in zip(w, axes, strict=True)]
        choices = jnp.asarray(random.integers(0, 5, (2, 6, 2)), jnp.int32)  # 4 is none of them

        def loss(x: jax.Array, p: jax.Array, *w: jax.Array) -> jax.Array:
            spec = layout.activation("batch", "length", "embed")
            feeds = layout.feeds("batch", "length", None, into="mlp")
            x, p = jax.reshard(x, feeds), jax.reshard(p, feeds)
            y = jax.reshard(mixture(settings, x, choices, p, Matrices(*w)), spec)
            return jnp.sum(jnp.sin(y))

        gradient = jax.grad(loss, (0, 1, 2, 3, 4))
        found = jax.jit(gradient)(x, p, *w)
        with as_derived():
            expected = jax.jit(lambda *a: gradient(*a))(x, p, *w)
    for one, other in zip(found, expected, strict=True):
        assert np.asarray(one) == pytest.approx(np.asarray(other), rel=1e-4, abs=1e-5)


def test_capacity_keeps_first_choices_and_early_tokens() -> None:
    layout = rules_for(whole({}), 0, False)
    assert capacity(1.0, 4, 2, 4) == 2 and capacity(9.0, 4, 2, 4) == 4
    choices = np.array([[[0, 1], [0, 1], [1, 0], [0, 1]]], np.int32)
    with jax.set_mesh(make_mesh({})):
        kept = np.asarray(within(jnp.asarray(choices), 4, 2, layout))
    assert kept.tolist() == [[[0, 1], [0, 4], [1, 4], [4, 4]]]


def test_more_choices_than_experts_are_refused() -> None:
    with pytest.raises(UserError, match="moe_top_k 5 is more than moe_num_experts 4"):
        replace(ExpertsConfig(4, 8), top_k=5)
