"""The chunked loss and its hand-written gradient against the naive formula in float64."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxneox.model.gather import gather_all
from jaxneox.model.loss import LossSettings, chunk_length, loss_sum
from jaxneox.model.unembedding import Unembedding
from jaxneox.model.vocabulary import hide_added
from jaxneox.parallel.mesh import make_mesh
from jaxneox.parallel.rules import rules_for
from tests.reference.compare import relative_l2, worst_leaf


class Case(NamedTuple):
    """M micro-batches, B batch, T length, D hidden, V vocabulary, C positions of a chunk."""

    B: int
    T: int
    D: int
    V: int
    C: int
    z_loss: float = 0.0
    compute: str = "float32"
    logits: str = "float32"
    dp: int = 1
    tp: int = 1
    bias: bool = False
    M: int = 1
    cp: int = 1
    pp: int = 1

    @property
    def sizes(self) -> dict[str, int]:
        return {"pp": self.pp, "dp": self.dp, "cp": self.cp, "tp": self.tp}


CASES = [
    Case(2, 6, 5, 9, 6),
    Case(3, 8, 4, 7, 2, z_loss=0.1),
    Case(1, 5, 3, 11, 1, z_loss=1e-4),
    Case(1, 6, 3, 8, 6),
    Case(2, 6, 3, 8, 1, dp=2),
    Case(4, 8, 6, 8, 4, z_loss=0.1, dp=2, tp=2),
    Case(3, 8, 16, 40, 4, z_loss=0.1, compute="bfloat16"),
    Case(3, 8, 16, 40, 2, compute="float16"),
    Case(3, 8, 16, 40, 8, compute="float16", logits="float16"),
    Case(4, 8, 6, 8, 2, z_loss=0.1, dp=2, tp=2, bias=True),
    Case(3, 8, 16, 40, 4, compute="bfloat16", bias=True),
    Case(3, 8, 16, 40, 8, compute="float16", logits="float16", bias=True),
    Case(2, 8, 6, 8, 2, dp=2, tp=2, cp=2),
    Case(2, 8, 6, 8, 2, z_loss=0.1, bias=True, M=4, pp=2, cp=2, tp=2),
    Case(2, 8, 6, 8, 8, bias=True, M=3, pp=2, dp=2),
]
WHOLE = P(None, "tp")
STORED = [  # a case, and in what parts the devices store the weight
    (Case(4, 8, 6, 8, 2, z_loss=0.1, bias=True, dp=2, tp=2), P("dp", "tp")),
    (Case(2, 8, 8, 8, 2, dp=2, tp=2, cp=2), P(("dp", "cp"), "tp")),
    (Case(2, 8, 6, 8, 2, dp=2, tp=2, cp=2), P("dp", "tp")),
    (Case(2, 8, 8, 8, 2, bias=True, M=4, pp=2, dp=2, tp=2), P(("dp", "pp"), "tp")),
    (Case(4, 8, 8, 9, 2, bias=True, dp=2, tp=2), P(("tp", "dp"), None)),
    (Case(4, 8, 8, 10, 2, dp=2, tp=4), P("tp", "dp")),
]
# Relative L2 of float32's sums of some ten products; then, with eleven and eight bits kept in the
# logits, in their softmax and in the gradient, a few times the last of these bits.
BOUNDS = {"float32": 1e-6, "float16": 4 * 2.0**-11, "bfloat16": 4 * 2.0**-8}


def arrays(case: Case, seed: int = 0) -> tuple[np.ndarray, ...]:
    """x, w (of values that the compute dtype holds), the logits' bias (0 for none), labels, weights
    of which a third are 0."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(case.M, case.B, case.T, case.D))
    w = random.normal(size=(case.D, case.V)) / np.sqrt(case.D) * 2
    x, w = (np.asarray(jnp.asarray(a, case.compute), np.float32) for a in (x, w))
    labels = random.integers(0, case.V, x.shape[:-1]).astype(np.int32)
    weights = random.uniform(0.1, 2, labels.shape) * (random.random(labels.shape) > 0.3)
    b = (random.normal(size=case.V) * case.bias).astype(np.float32)
    return x, w, b, labels, weights.astype(np.float32)


def naive(case: Case) -> tuple[float, dict[str, np.ndarray]]:
    def loss(x, w, b, labels, weights):
        logits = x @ w + b[None, None, None]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
        z = jax.nn.logsumexp(logits, axis=-1)
        return jnp.sum(weights * (case.z_loss * z**2 - chosen))

    with jax.enable_x64(True):
        x, w, b, labels, weights = arrays(case)
        x, w, b, weights = (jnp.asarray(a, jnp.float64) for a in (x, w, b, weights))
        value, grads = jax.value_and_grad(loss, (0, 1, 2))(x, w, b, labels, weights)
        return float(value), leaves(case, grads)


def leaves(case: Case, grads) -> dict[str, np.ndarray]:
    named = dict(zip("xwb", map(np.asarray, grads), strict=True))
    return named if case.bias else {name: named[name] for name in "xw"}


def specs(micro: str | None, weight: P = WHOLE) -> tuple[P, ...]:
    rows = P("pp" if micro else None, "dp", "cp")
    return rows, weight, P(None), rows, rows


def ours(case: Case, stored: P = WHOLE) -> tuple[float, float, dict[str, np.ndarray]]:
    """The loss alone, the loss with its gradients, and these."""
    rules, mesh = rules_for(case.sizes, 0, False), make_mesh(case.sizes)
    micro = rules.spread(case.M)
    settings = LossSettings(rules, case.z_loss, case.C, jnp.dtype(case.logits), micro)

    def loss(x, w, b, labels, weights):
        b = gather_all({"b": b}, {"b": ("vocab",)}, rules)["b"]
        bias = hide_added(b if case.bias else None, case.V, rules)
        unembedding = Unembedding(w.astype(case.compute), bias)
        return loss_sum(x.astype(case.compute), unembedding, labels, weights, settings)

    with jax.set_mesh(mesh):
        laid = [
            jax.device_put(a, NamedSharding(mesh, s))
            for a, s in zip(arrays(case), specs(micro, stored), strict=True)
        ]
        # the gradient of 3 * loss, so that the factor from above is seen
        value, grads = jax.jit(jax.value_and_grad(lambda *a: 3 * loss(*a), (0, 1, 2)))(*laid)
        alone = jax.jit(loss)(*laid)
        assert {a.dtype for a in (alone, value, *grads)} == {jnp.dtype("float32")}
        third = leaves(case, [np.asarray(g) / 3 for g in grads])
        return float(alone), float(value) / 3, third


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_gradient_are_those_of_the_naive_formula(case: Case) -> None:
    expected, expected_grads = naive(case)
    alone, value, grads = ours(case)
    bound = BOUNDS[case.compute]
    assert alone == pytest.approx(expected, rel=bound)
    assert value == pytest.approx(expected, rel=bound)
    error, leaf = worst_leaf(grads, expected_grads)
    assert error <= bound, leaf


@pytest.mark.slow
@pytest.mark.parametrize(("case", "stored"), STORED, ids=str)
def test_a_weight_stored_in_parts_has_its_gradient_in_the_same_parts(case: Case, stored: P) -> None:
    expected, expected_grads = naive(case)
    alone, value, grads = ours(case, stored)
    bound = BOUNDS[case.compute]
    assert alone == pytest.approx(expected, rel=bound)
    assert value == pytest.approx(expected, rel=bound)
    error, leaf = worst_leaf(grads, expected_grads)
    assert error <= bound, leaf


def test_a_masked_token_has_no_loss_and_no_gradient() -> None:
    weights = arrays(CASES[0])[4]
    _, _, grads = ours(CASES[0])
    assert (weights == 0).any()
    assert not grads["x"][weights == 0].any() and grads["x"][weights > 0].all()


def test_a_tied_embedding_has_the_sum_of_both_gradients() -> None:
    case = CASES[1]
    _, w, _, labels, weights = arrays(case)
    tokens = np.roll(labels, 1, axis=-1)
    rules, mesh = rules_for({"dp": 1, "tp": 1}, 0, False), make_mesh({"dp": 1, "tp": 1})
    settings = LossSettings(rules, case.z_loss, case.C, jnp.dtype("float32"))

    def loss(embedding, unembedding):
        x = embedding.at[tokens].get(out_sharding=P(None, "dp", "cp", None))
        return loss_sum(x, Unembedding(unembedding, None), labels, weights, settings)

    with jax.set_mesh(mesh):
        e = jax.device_put(w.T, NamedSharding(mesh, P("tp", None)))
        gradient = jax.jit(jax.grad(lambda e: loss(e, e.T)))(e)
        read, written = jax.jit(jax.grad(loss, (0, 1)))(e, e.T)
    assert relative_l2(gradient, read + written.T) <= 1e-6


def test_memory_is_that_of_one_chunk() -> None:
    B, T, D, V, C = 4, 512, 16, 4096, 32
    settings = LossSettings(rules_for({"dp": 1, "tp": 1}, 0, False), 1e-4, C, jnp.dtype("float32"))
    shapes = [((1, B, T, D), "float32"), ((D, V), "float32"), ((V,), "float32")]
    shapes += [((1, B, T), "int32"), ((1, B, T), "float32")]
    mesh = make_mesh({"dp": 1, "tp": 1})
    with jax.set_mesh(mesh):
        abstract = [
            jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
            for (shape, dtype), spec in zip(shapes, specs(None), strict=True)
        ]
        gradient = jax.grad(
            lambda x, w, b, *a: loss_sum(x, Unembedding(w, b), *a, settings), (0, 1, 2)
        )
        memory = jax.jit(gradient).lower(*abstract).compile().memory_analysis()
    chunk = B * C * V * 4
    # logits, softmax and their gradient for one chunk, and the weights' gradient twice
    assert memory.temp_size_in_bytes <= 3 * chunk + 2 * D * V * 4 + 2 * B * T * D * 4
    assert memory.temp_size_in_bytes < B * T * V * 4 / 4


@given(st.integers(1, 4096), st.integers(1, 10**7), st.integers(1, 2**25))
def test_a_chunk_is_the_longest_divisor_that_fits(length: int, logits: int, limit: int) -> None:
    chunk = chunk_length(length, logits, limit)
    assert length % chunk == 0
    assert chunk == 1 or chunk * logits <= limit
    longer = [c for c in range(chunk + 1, length + 1) if length % c == 0]
    assert all(c * logits > limit for c in longer)
