"""What the compiled program sends between devices, and what does not even trace."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxneox.config.schema import RematConfig
from jaxneox.hlo.collectives import collectives
from jaxneox.hlo.sent import rows
from jaxneox.model import Model
from jaxneox.model.context import Context, TokenPositions
from jaxneox.parallel.mesh import make_mesh
from jaxneox.parallel.rules import rules_for
from jaxneox.train.dry_run.program import compile_step
from jaxneox.train.plan import build_plan
from tests.parallel.meshes import BATCH, LENGTH, MODEL, Mesh, config

SIZES = {"dp": 1, "tp": 4}
ALL_REDUCE = re.compile(r"= (.*) all-reduce(?:-start)?\(")


def compiled(model: Model, backward: bool) -> str:
    """The HLO of the layers alone, forward or with the gradients of all that enters."""
    mesh = make_mesh(SIZES)
    with jax.set_mesh(mesh):
        lay = {
            name: NamedSharding(mesh, model.layout.weight(*axes))
            for name, axes in model.axes.items()
            if name.startswith("layers.")
        }
        params = {
            name: jax.ShapeDtypeStruct(model.shapes[name], jnp.float32, sharding=sharding)
            for name, sharding in lay.items()
        }
        stream = NamedSharding(mesh, P(None, "dp", "cp", None))
        x = jax.ShapeDtypeStruct((1, BATCH, LENGTH, 32), jnp.float32, sharding=stream)

        def layers(params, x):
            context = Context(TokenPositions(jnp.arange(LENGTH)), model.layout)
            return model.run_layers(params, x, context)[0]

        def gradient(params, x):
            return jax.vjp(layers, params, x)[1](x)

        return jax.jit(gradient if backward else layers).lower(params, x).compile().as_text()


def reduced(text: str) -> list[int]:
    """For every all-reduce that sends arrays of the stream's size: how many at once."""
    stream = f"f32[{BATCH},{LENGTH},32]"
    counts = [shapes.count(stream) for shapes in ALL_REDUCE.findall(text)]
    return [count for count in counts if count]


# the layers are scanned: the text of the program holds one layer forward and one backward


@pytest.mark.slow
@pytest.mark.parametrize("shared_norm", [False, True])
def test_a_parallel_layer_reduces_once_forward_and_once_backward(shared_norm: bool) -> None:
    cfg = dataclasses.replace(MODEL, shared_norm=shared_norm)
    model = Model(cfg, rules_for(SIZES, 0, False), remat=RematConfig("none"))
    assert reduced(compiled(model, backward=False)) == [1]
    assert reduced(compiled(model, backward=True)) == [1, 1]


def test_a_sequential_layer_reduces_twice() -> None:
    cfg = dataclasses.replace(MODEL, parallel_residual=False)
    model = Model(cfg, rules_for(SIZES, 0, False), remat=RematConfig("none"))
    assert reduced(compiled(model, backward=False)) == [1, 1]


def over_dp(mesh: Mesh) -> int:
    """Bytes of all that a step sums over dp."""
    plan = build_plan(config(MODEL, mesh), mesh.sizes)
    text = compile_step(plan, jax.devices()[:4]).program.as_text() or ""
    found = rows(text, plan.sizes, MODEL.num_layers)
    return sum(row.bytes for row in found if row.axes == "dp" and row.kind == "all-reduce")


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2])
def test_gradients_are_summed_over_dp_once_a_step(zero: int) -> None:
    """Below stage 2 two micro-batches more send their vectors alone: biases, norms and the loss. At
    stage 2, where each device adds up its part, they send everything again."""
    two, four = (over_dp(Mesh(dp=2, tp=2, zero=zero, accumulation=n)) for n in (2, 4))
    shapes = Model(MODEL, rules_for({"dp": 2, "tp": 2}, 0, False)).shapes
    sizes = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
    vectors = sum(n for name, n in sizes.items() if "norm" in name or "bias" in name)
    matrices = sum(sizes.values()) - vectors
    assert two >= matrices / 2
    if zero < 2:
        assert four - two <= 2 * vectors + 64
    else:
        assert four - two >= 2 * matrices / 2


def of_the_vocabulary(mesh: Mesh, tied: bool) -> list[str]:
    """The kinds of collectives that send a whole matrix of the vocabulary, or little more."""
    model = dataclasses.replace(MODEL, vocab_size=512, num_layers=2, tied_embedding=tied)
    plan = build_plan(config(model, mesh), mesh.sizes)
    text = compile_step(plan, jax.devices()[: math.prod(mesh.sizes.values())]).program.as_text()
    size = 4 * model.vocab_size * model.hidden_size // mesh.tp
    return sorted(one.kind for one in collectives(text or "") if size <= one.bytes < 1.1 * size)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("mesh", [Mesh(dp=4, zero=3), Mesh(dp=2, cp=2, tp=2, zero=3)], ids=str)
def test_the_vocabulary_is_gathered_once_a_step_and_reduced_once(mesh: Mesh, tied: bool) -> None:
    """For logits, and their gradient: the table of tokens is looked up where it is stored.

    Over two mesh axes the last step of the gather and the first of the sum are of this size.
    """
    assert of_the_vocabulary(mesh, tied) == ["all-gather", "all-reduce"]


def test_a_bias_added_to_the_partial_sum_does_not_trace() -> None:
    """gpt-neox issue 962, written down: k devices would each add the whole bias."""
    rules, mesh = rules_for(SIZES, 0, False), make_mesh(SIZES)
    with jax.set_mesh(mesh):
        inner = jax.device_put(jnp.ones((2, 4, 8)), NamedSharding(mesh, P("dp", None, "tp")))
        weight = jax.device_put(jnp.ones((8, 16)), NamedSharding(mesh, P("tp", None)))
        bias = jax.device_put(jnp.ones(16), NamedSharding(mesh, P()))
        partial = rules.partial("batch", "length", "embed", over="mlp")
        whole = rules.activation("batch", "stream", "embed")

        def product(inner, weight):
            return jnp.einsum("BTF,FD->BTD", inner, weight, out_sharding=partial)

        def wrong(inner, weight, bias):
            return jax.reshard(product(inner, weight) + bias[None, None], whole)

        def right(inner, weight, bias):
            return jax.reshard(product(inner, weight), whole) + bias[None, None]

        with pytest.raises(Exception, match="unreduced") as error:
            jax.jit(wrong)(inner, weight, bias)
        assert type(error.value).__name__ == "ShardingTypeError"
        assert (
            jax.device_get(jax.jit(right)(inner, weight, bias)).tolist() == [[[9.0] * 16] * 4] * 2
        )
