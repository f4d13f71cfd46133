"""The cost of a token against every matrix product of the traced step, counted one by one."""

import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import Jaxpr, jaxprs_in_params

from jaxneox.config.schema import AttentionConfig, MlpConfig, ModelConfig, PositionConfig
from jaxneox.model import Model
from jaxneox.train.step.flops import flops_per_token, matrix_parameters, peak_flops
from tests.model.adapter import ONE_DEVICE, one_device

BATCH, LENGTH = 2, 12
MODEL = ModelConfig(
    num_layers=3,
    hidden_size=16,
    vocab_size=40,
    seq_length=LENGTH,
    attention=AttentionConfig(num_heads=4, kv_heads=2, head_dim=8, bias=False),
    mlp=MlpConfig(size=24, bias=False),
    positions=PositionConfig("learned", max_positions=LENGTH),
)
MODELS = {
    "tied": MODEL,
    "untied": dataclasses.replace(MODEL, tied_embedding=False),
    "gated": dataclasses.replace(MODEL, mlp=MlpConfig(size=24, bias=False, gated=True)),
    "dropped": dataclasses.replace(MODEL, parallel_residual=True, attention_dropped=True),
}


def products(jaxpr: Jaxpr, times: int = 1) -> Iterator[int]:
    """The operations of every dot_general, those in a scan as often as it runs."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = math.prod(shape[axis] for axis in contracted)
            yield times * 2 * inner * math.prod(equation.outvars[0].aval.shape)
        runs = times * equation.params.get("length", 1)
        for inside in jaxprs_in_params(equation.params):
            yield from products(inside, runs)


@pytest.mark.parametrize("name", MODELS)
def test_a_token_costs_its_matrix_products(name: str) -> None:
    cfg = MODELS[name]
    # another kernel makes the scores a second time for the backward pass
    cfg = dataclasses.replace(cfg, attention=dataclasses.replace(cfg.attention, kernel="einsum"))
    model = Model(cfg, ONE_DEVICE)
    params = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in model.shapes.items()}
    tokens = jax.ShapeDtypeStruct((1, BATCH, LENGTH), jnp.int32)
    weights = jax.ShapeDtypeStruct((1, BATCH, LENGTH), jnp.float32)
    with one_device(cfg):
        traced = jax.make_jaxpr(jax.grad(model.loss_sum))(params, tokens, tokens, weights)
    counted = sum(products(traced.jaxpr)) / (BATCH * LENGTH)
    # norms are no matrix products, but every formula of this kind has their few numbers in it
    norms = sum(math.prod(s) for n, s in model.shapes.items() if "norm" in n)
    assert flops_per_token(model.shapes, cfg) == counted + 6 * norms


def test_only_tables_that_are_looked_up_and_a_dropped_attention_cost_nothing() -> None:
    sizes = {}
    for name, cfg in MODELS.items():
        shapes = Model(cfg, ONE_DEVICE).shapes
        everything = sum(map(math.prod, shapes.values()))
        sizes[name] = everything - matrix_parameters(shapes, cfg)
    positions, tokens, attention = LENGTH * 16, 40 * 16, 3 * (4 + 2 * 2 + 4) * 8 * 16
    assert sizes == {
        "tied": positions,
        "untied": positions + tokens,
        "gated": positions,
        "dropped": positions + attention,
    }


def test_a_peak_is_known_measured_or_none() -> None:
    class Device:
        def __init__(self, platform: str, device_kind: str):
            self.platform, self.device_kind = platform, device_kind

    assert peak_flops([Device("gpu", "NVIDIA H100 80GB HBM3")] * 2) == 2 * 989e12  # type: ignore
    assert peak_flops([Device("tpu", "TPU v5 lite")] * 4) == 4 * 197e12  # type: ignore
    assert peak_flops([Device("tpu", "TPU v5p")]) == 459e12  # type: ignore
    assert peak_flops([Device("gpu", "Abacus")]) is None  # type: ignore
    one, all_virtual = peak_flops(jax.devices()[:1]), peak_flops(jax.devices())
    assert one and all_virtual and 0.1 < one / all_virtual < 10  # virtual devices share the cores
