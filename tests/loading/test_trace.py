"""Activations by public names: what is kept, on every mesh, and what keeping it costs."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneox.config.schema import RematConfig
from jaxneox.errors import UserError
from jaxneox.loading import LoadedModel
from jaxneox.loading.pure import Arrays, plain
from jaxneox.loading.resting import laid_out
from jaxneox.model import InTraining, Model, Noise
from jaxneox.model.taps import LAYER_TAPS, activations, choose
from jaxneox.parallel.mesh import make_mesh, whole
from jaxneox.parallel.rules import rules_for
from tests.infer.models import speaker
from tests.model.variants import configure
from tests.reference.compare import relative_l2, worst_leaf
from tests.reference.parameters import random_params

MODEL = Path(__file__).resolve().parents[2] / "jaxneox" / "model"
ALL = "layers.*.residual"
DEEP = 12  # layers: 10 comes before 2 in the alphabet
ONE = 1e-6  # of float32 sums in another order


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (4, 12))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return speaker(num_layers=DEEP)


def arrays(kept: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in kept.items()}


def test_what_is_kept_is_named_in_the_order_of_the_layers(
    model: LoadedModel, tokens: np.ndarray
) -> None:
    logits, kept = model.trace(tokens, keep=[ALL])
    assert relative_l2(logits, model(tokens)) <= ONE
    assert list(kept) == [f"layers.{n}.residual" for n in range(DEEP)]
    assert list(model.activations()) == [f"layers.{n}.{t}" for n in range(DEEP) for t in LAYER_TAPS]
    assert {x.shape for x in kept.values()} == {(*tokens.shape, 32)}
    assert {x.dtype for x in kept.values()} == {jnp.dtype("float32")}
    tap = model.activations()["layers.3.residual"]
    assert (tap.shape, tap.meaning) == ("B T D", "the residual stream after the layer")
    for patterns in (
        "layers.3.residual",
        ["layers.1?.residual", "layers.3.res*", "layers.3.res*"],
        [],
    ):
        some = model.trace(tokens, patterns)[1]
        fitting = ["3"] if patterns == "layers.3.residual" else ["3", "10", "11"] * bool(patterns)
        assert list(some) == [f"layers.{n}.residual" for n in fitting]
        for name, x in some.items():
            np.testing.assert_array_equal(x, kept[name])
    narrow = speaker(num_layers=DEEP)
    narrow = LoadedModel(
        narrow.config, narrow._params, None, narrow._mesh, narrow._rules, "bfloat16"
    )
    (low,) = narrow.trace(tokens, "layers.3.residual")[1].values()
    assert low.dtype == jnp.bfloat16 and relative_l2(low, kept["layers.3.residual"]) <= 0.02


def test_with_parameters_of_the_caller(model: LoadedModel, tokens: np.ndarray) -> None:
    other = dict(model.params) | {"embed.tokens": 2 * model.params["embed.tokens"]}
    logits, kept = model.trace(tokens, [ALL], params=other)
    expected = model.with_params(other)
    assert relative_l2(logits, expected(tokens)) <= ONE
    assert worst_leaf(arrays(kept), arrays(expected.trace(tokens, [ALL])[1]))[0] == 0
    assert relative_l2(logits, model(tokens)) > 0.1


@pytest.mark.parametrize("wrong", ["layers.12.residual", "layers.*.residuals", "Layers.*", 3])
def test_a_name_that_is_none_is_one_line(
    model: LoadedModel, tokens: np.ndarray, wrong: str
) -> None:
    with pytest.raises(UserError) as refused:
        model.trace(tokens, keep=["layers.0.residual", wrong])
    line = str(refused.value)
    assert line.startswith(f"keep: {wrong!r} fits no activation of this model")
    assert "layers.N.residual" in line and "N from 0 to 11;" in line and "\n" not in line


def test_a_pipeline_is_refused_in_one_line(tokens: np.ndarray) -> None:
    piped = speaker("pp=2")
    with pytest.raises(
        UserError, match=r"2 stages of a pipeline.*load the model on a mesh without"
    ):
        piped.trace(tokens, [ALL])
    params = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in piped.params.items()}
    trace = partial(piped._functions.model.trace, taps=choose(ALL, piped.config.model))
    with jax.set_mesh(piped._mesh), pytest.raises(ValueError, match="keep no activations"):
        jax.eval_shape(trace, params, jnp.asarray(tokens))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["dp=2,tp=2", "dp=2,cp=2,tp=2"])
def test_the_same_on_every_mesh(model: LoadedModel, tokens: np.ndarray, mesh: str) -> None:
    split = speaker(mesh, num_layers=DEEP)
    logits, kept = split.trace(tokens, [ALL])
    expected_logits, expected = model.trace(tokens, [ALL])
    assert relative_l2(logits, expected_logits) <= ONE
    assert worst_leaf(arrays(kept), arrays(expected))[0] <= ONE
    assert float(jnp.linalg.norm(kept["layers.0.residual"] + jnp.ones(32)[None, None])) > 0


@pytest.mark.slow
def test_positions_that_a_ring_has_in_its_own_order_are_put_back(tokens: np.ndarray) -> None:
    """With layers that the backward pass computes again, and a stream that tp splits as well."""
    cfg = configure("parallel")
    params = {name: jnp.asarray(w) for name, w in random_params(cfg, seed=2).items()}
    rows = tokens[:, :8] % cfg.vocab_size

    def kept_and_gradient(
        sizes: dict[str, int], remat: RematConfig, ring: bool
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        sizes = whole(sizes)
        mesh, rules = make_mesh(sizes), rules_for(sizes, 0, ring, ring=ring)
        one = Model(cfg, rules, remat=remat)

        @jax.jit
        def loss(p: Arrays) -> tuple[jax.Array, dict[str, jax.Array]]:
            kept = one.trace(p, jnp.asarray(rows), choose(ALL, cfg))[1]
            return jnp.sum(kept["layers.0.residual"] ** 2 * jnp.arange(8.0)[None, :, None]), kept

        with jax.set_mesh(mesh):
            gradient, kept = jax.grad(loss, has_aux=True)(laid_out(params, one, rules, mesh))
        found = {name: plain(x, mesh) for name, x in kept.items()}
        return arrays(found), arrays({n: plain(g, mesh) for n, g in gradient.items()})

    expected, slope = kept_and_gradient({"dp": 1}, RematConfig("none"), False)
    found, found_slope = kept_and_gradient({"cp": 2, "tp": 2}, RematConfig("full"), True)
    assert worst_leaf(found, expected)[0] <= ONE
    assert worst_leaf(found_slope, slope)[0] <= 10 * ONE


@pytest.mark.parametrize("name", ["", "parallel", "parallel attention_dropped"])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_last_residual_is_what_the_final_norm_reads(name: str, rate: float) -> None:
    """In each style of a layer, also where something is dropped; and every tap is there."""
    cfg = replace(configure(name), hidden_dropout=rate)
    sizes = whole({"dp": 1})
    one, mesh = Model(cfg, rules_for(sizes, 0, False)), make_mesh(sizes)
    params = {n: jnp.asarray(w) for n, w in random_params(cfg, seed=2).items()}
    tokens = jnp.arange(12).reshape(2, 6)
    training = InTraining(Noise(jax.random.key(0), jnp.arange(2)[None]))

    @jax.jit
    def run(p: Arrays) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        logits, kept = one.trace(p, tokens, choose("*", cfg), training)
        last = one.declaration.part("final_norm", p)(kept[f"layers.{cfg.num_layers - 1}.residual"])
        return logits, last @ p["embed.tokens"].T, kept

    with jax.set_mesh(mesh):
        logits, expected, kept = run(laid_out(params, one, one.layout, mesh))
    assert kept.keys() == activations(cfg).keys()
    assert relative_l2(logits, expected) <= ONE


def test_every_activation_that_is_named_can_be_kept() -> None:
    calls = [re.findall(r'\.tap\(\s*"(.*?)"', path.read_text()) for path in MODEL.rglob("*.py")]
    assert {name for names in calls for name in names} == LAYER_TAPS.keys()


def test_the_example_of_the_documentation_runs(model: LoadedModel, tokens: np.ndarray) -> None:
    section = (MODEL.parents[1] / "docs/python.md").read_text().split("\n## Activations\n")[1]
    (code,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], re.DOTALL)
    names = {"model": model, "tokens": jnp.asarray(tokens), "jax": jax, "jnp": jnp}
    exec(compile(code, "docs/python.md", "exec"), names)
    assert names["gradient"].keys() == model.params.keys()


def test_under_vmap_and_in_both_modes(model: LoadedModel, tokens: np.ndarray) -> None:
    """A slope forwards is the product with the gradient; copies under vmap are the model's own."""
    params = dict(model.params)
    random = np.random.default_rng(1)
    v = {n: jnp.asarray(random.normal(size=w.shape), jnp.float32) for n, w in params.items()}

    def energy(p: Arrays) -> jax.Array:
        kept = model.trace(tokens, ["layers.2.residual", "layers.5.residual"], params=p)[1]
        return jnp.mean(kept["layers.5.residual"] * jnp.flip(kept["layers.2.residual"], 1))

    gradient = jax.jit(jax.grad(energy))(params)
    slope = jax.jvp(energy, (params,), (v,))[1]
    along = sum(float(jnp.vdot(g, v[name])) for name, g in gradient.items())
    assert slope == pytest.approx(along, rel=1e-4)
    assert float(jnp.abs(gradient["layers.mlp.down"][5]).max()) > 0
    assert float(jnp.abs(gradient["layers.mlp.down"][6:]).max()) == 0
    scales = jnp.array([1.0, 0.9])
    copies = jax.tree.map(lambda w: w[None] * scales.reshape(-1, *(1,) * w.ndim), params)
    scaled = jax.tree.map(lambda w: 0.9 * w, params)
    each = jax.vmap(energy)(copies)
    np.testing.assert_allclose(each, [energy(params), energy(scaled)], rtol=1e-5)


@pytest.mark.slow
def test_one_of_many_layers_costs_one_array() -> None:
    """Forward and backward: what is not kept is not stored."""
    deep = speaker(num_layers=48)
    tokens = jax.ShapeDtypeStruct((4, 40), jnp.int32)
    params = {name: jax.ShapeDtypeStruct(w.shape, w.dtype) for name, w in deep.params.items()}
    array = 4 * 40 * 32 * 4

    def size(function, *keep: str) -> float:
        trace = deep._functions.pure.trace(choose(keep, deep.config.model))
        program = jax.jit(partial(function, trace)).lower(params, tokens).compile()
        memory = program.memory_analysis()
        return (memory.temp_size_in_bytes + memory.output_size_in_bytes) / array

    def forward(trace, p: Arrays, tokens: jax.Array):
        return trace(p, tokens)

    def backward(trace, p: Arrays, tokens: jax.Array):
        def loss(p: Arrays) -> jax.Array:
            logits, kept = trace(p, tokens)
            return jnp.mean(logits**2) + sum(jnp.mean(x**2) for x in kept.values())

        return jax.grad(loss)(p)

    for function in (forward, backward):
        none = size(function)
        one = size(function, "layers.20.residual") - none
        some = size(function, "layers.?.residual") - none
        assert one < 2 and some < 10 * 2, f"{function.__name__}: {one}, {some} arrays"


@pytest.mark.slow
def test_layers_that_are_computed_again_store_no_more() -> None:
    """What a checkpoint keeps for each layer is its input, and not what others keep."""
    cfg = replace(configure("parallel"), num_layers=48, seq_length=40)
    sizes = whole({"dp": 1})
    rules, mesh = rules_for(sizes, 0, False), make_mesh(sizes)
    one = Model(cfg, rules, remat=RematConfig("full"))
    array = 4 * 40 * 32 * 4

    def size(*keep: str) -> float:
        def loss(p: Arrays, tokens: jax.Array) -> jax.Array:
            logits, kept = one.trace(p, tokens, choose(keep, cfg))
            return jnp.mean(logits**2) + sum(jnp.mean(x**2) for x in kept.values())

        params = {n: jax.ShapeDtypeStruct(shape, jnp.float32) for n, shape in one.shapes.items()}
        tokens = jax.ShapeDtypeStruct((4, 40), jnp.int32)
        memory = jax.jit(jax.grad(loss)).lower(params, tokens).compile().memory_analysis()
        return memory.temp_size_in_bytes / array

    with jax.set_mesh(mesh):
        assert size("layers.20.residual") - size() < 2
