"""Ten steps of every optimizer against a second implementation of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxneox.config.schema import OptimizerConfig
from jaxneox.optim.optimizer import UPDATES, decays
from tests.optim.cases import (
    AXES,
    ROWS,
    SPARED,
    STEPS,
    Arrays,
    by_layer,
    gradients,
    ours,
    random_arrays,
    rate,
)
from tests.reference.compare import worst_leaf

# A large decay, so that a parameter in the wrong group shows.
ADAM = OptimizerConfig(
    "adam", lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.5, grad_clip=0.0
)
# Ten steps in float32 against float64: each adds a rounding of 6e-8 of the parameter.
ROUNDING = 1e-6


def check(found: Arrays, expected: Arrays, bound: float = ROUNDING) -> None:
    error, name = worst_leaf(found, expected)
    assert error <= bound, name


def decay(cfg: OptimizerConfig, name: str) -> float:
    return 0.0 if name in SPARED else cfg.weight_decay


def with_torch(cfg: OptimizerConfig, make) -> Arrays:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    leaves = {n: torch.tensor(x, dtype=torch.float64) for n, x in random_arrays(0).items()}
    groups = [{"params": [x], "weight_decay": decay(cfg, n)} for n, x in leaves.items()]
    optimizer = make(torch.optim, groups)
    for step, grads in enumerate(gradients()):
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(grads[name], dtype=torch.float64)
        if cfg.grad_clip:
            torch.nn.utils.clip_grad_norm_(leaves.values(), cfg.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = rate(cfg, step)
        optimizer.step()
    return {name: leaf.numpy() for name, leaf in leaves.items()}


def adamw(cfg: OptimizerConfig) -> Arrays:
    return with_torch(cfg, lambda optim, groups: optim.AdamW(groups, betas=cfg.betas, eps=cfg.eps))


def test_adam_and_adamw_are_torchs_adamw() -> None:
    check(ours(ADAM), adamw(ADAM))
    check(ours(dataclasses.replace(ADAM, kind="adamw")), adamw(ADAM))


def test_adam_with_its_decay_in_the_gradient_is_torchs_adam() -> None:
    cfg = dataclasses.replace(ADAM, decoupled_decay=False)

    def make(optim, groups):
        return optim.Adam(groups, betas=cfg.betas, eps=cfg.eps)

    check(ours(cfg), with_torch(cfg, make))
    assert worst_leaf(ours(cfg), ours(ADAM))[0] > 1e-2


@pytest.mark.parametrize("decoupled", [True, False])
def test_adam_without_the_correction_of_its_bias(decoupled: bool) -> None:
    """deepspeed/ops/adam/fused_adam.py: both corrections are 1."""
    cfg = dataclasses.replace(ADAM, bias_correction=False, decoupled_decay=decoupled)

    def update(name: str, p: np.ndarray, grads: np.ndarray) -> np.ndarray:
        p = p.astype(np.float64)
        mean, square = np.zeros_like(p), np.zeros_like(p)
        for step, g in enumerate(grads.astype(np.float64)):
            shrink = decay(cfg, name) * p
            g = g if decoupled else g + shrink
            mean = 0.8 * mean + 0.2 * g
            square = 0.95 * square + 0.05 * g * g
            p = p - rate(cfg, step) * (mean / (np.sqrt(square) + 1e-3) + decoupled * shrink)
        return p

    check(ours(cfg), by_layer(update))


@pytest.mark.slow
@pytest.mark.parametrize("clip", [0.3, 40.0])
def test_clipping_is_torchs(clip: float) -> None:
    norms = [np.sqrt(sum(np.sum(g**2) for g in grads.values())) for grads in gradients()]
    assert 0.3 < min(norms) < 40 < max(norms)  # some are clipped, some are not
    cfg = dataclasses.replace(ADAM, grad_clip=clip)
    check(ours(cfg), adamw(cfg))  # torch adds 1e-6 to a norm of about 40
    assert worst_leaf(ours(cfg), ours(ADAM))[0] > 1e-3


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_torchs(momentum: float) -> None:
    cfg = dataclasses.replace(ADAM, kind="sgd", momentum=momentum)
    check(ours(cfg), with_torch(cfg, lambda optim, groups: optim.SGD(groups, momentum=momentum)))


def test_lion() -> None:
    """Chen et al. 2023; megatron/optimizers.py, Lion."""
    cfg = dataclasses.replace(ADAM, kind="lion", betas=(0.7, 0.9))

    def update(name: str, p: np.ndarray, grads: np.ndarray) -> np.ndarray:
        mean = np.zeros_like(p, np.float64)
        p = p.astype(np.float64)
        for step, g in enumerate(grads):
            p = p * (1 - rate(cfg, step) * decay(cfg, name))
            p -= rate(cfg, step) * np.sign(0.7 * mean + 0.3 * g)
            mean = 0.9 * mean + 0.1 * g
        return p

    check(ours(cfg), by_layer(update))


@pytest.mark.parametrize(("momentum", "beta"), [(0.0, 0.0), (0.9, 0.0), (0.5, 0.7)])
def test_sm3(momentum: float, beta: float) -> None:
    """megatron/optimizers.py, SM3: one accumulator for each row and one for each column."""
    cfg = dataclasses.replace(ADAM, kind="sm3", momentum=momentum, eps=1e-30, extra={"beta": beta})

    def update(name: str, p: np.ndarray, grads: np.ndarray) -> np.ndarray:
        p = p.astype(np.float64)
        others = [tuple(set(range(p.ndim)) - {axis}) for axis in range(p.ndim)]
        accumulators = [np.zeros_like(p).max(axis=o, keepdims=True) for o in others]
        buffer = np.zeros_like(p)
        for step, g in enumerate(grads.astype(np.float64)):
            low = np.broadcast_arrays(p, *accumulators)[1:]
            second = np.minimum.reduce(low) * (beta or 1.0) + (1 - beta) * g * g
            highest = [second.max(axis=o, keepdims=True) for o in others]
            accumulators = [np.maximum(*pair) for pair in zip(accumulators, highest, strict=True)]
            buffer = momentum * buffer + (1 - momentum) * g / np.sqrt(second + 1e-30)
            p = p - rate(cfg, step) * (buffer + decay(cfg, name) * p)
        return p

    check(ours(cfg), by_layer(update))


def plain(cfg: OptimizerConfig, inner: optax.GradientTransformation):
    """An update of one matrix or vector alone by `inner`, with decay and learning rate."""

    @jax.jit
    def run(p: jax.Array, grads: jax.Array, decay: float) -> jax.Array:
        def step(carry, at):
            p, state = carry
            g, rate = at
            direction, state = inner.update(g, state, p)
            return (p - rate * (direction + decay * p), state), None

        rates = jnp.array([rate(cfg, i) for i in range(STEPS)])
        return jax.lax.scan(step, (p, inner.init(p)), (grads, rates))[0][0]

    return lambda name, p, grads: run(p, grads, decay(cfg, name))


def test_adafactor_sees_each_layers_matrices() -> None:
    cfg = dataclasses.replace(ADAM, kind="adafactor")
    embed = 130  # optax factors from 128 on
    inner = optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
    state = inner.init(np.zeros((embed, 2 * embed), np.float32))
    assert state[0].v_row.shape == (embed,)
    check(ours(cfg, embed), by_layer(plain(cfg, inner), embed), 3e-6)


def test_muon_sees_each_layers_matrices_and_adam_the_rest() -> None:
    cfg = dataclasses.replace(ADAM, kind="muon", momentum=0.9)
    muon, still = optax.contrib.muon(-1.0, beta=0.9), optax.set_to_zero()
    matrix, vector = plain(cfg, muon), plain(cfg, still)
    expected = by_layer(lambda name, p, g: (matrix if p.ndim == 2 else vector)(name, p, g))
    rest = adamw(cfg)
    expected |= {n: rest[n] for n in AXES if not (n.startswith("layers.") and n in ROWS)}
    # the iteration for the orthogonal factor is in float32 on both sides, in another order
    check(ours(cfg), expected, 2e-5)


@pytest.mark.slow
def test_every_optimizer_is_tested_and_moves_every_parameter() -> None:
    for kind in UPDATES:
        cfg = dataclasses.replace(ADAM, kind=kind)
        for name, moved in ours(cfg).items():
            assert np.all(np.abs(moved - random_arrays(0)[name]) > 0), (kind, name)


def test_parameters_are_spared_by_name() -> None:
    assert {name for name in AXES if not decays(name)} == SPARED
    assert len(gradients()) == STEPS
