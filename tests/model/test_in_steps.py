"""A layer at a time the model computes what it does at once."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneox.model import Model
from jaxneox.model.in_steps import ModelInSteps
from jaxneox.parallel.mesh import make_mesh, whole
from jaxneox.parallel.rules import rules_for
from tests.model.variants import configure
from tests.reference.compare import relative_l2
from tests.reference.parameters import random_params

ONE = whole({"dp": 1})

VARIANTS = (
    "parallel untied",
    "rpe",
    "learned",
    "alibi",
    "sinusoidal",
    "untied logit_bias",
    "gqa",
    "multiplied learned",
    "multiplied scaled_scores sinusoidal",
)


def in_steps(model: ModelInSteps, params: dict, tokens: jax.Array) -> jax.Array:
    outer = {name: w for name, w in params.items() if not name.startswith("layers.")}
    x = jax.jit(model.begin)(outer, tokens)
    for layer in range(model.cfg.num_layers):
        own = {n: w[layer] for n, w in params.items() if n.startswith("layers.")}
        x = jax.jit(model.through, static_argnames="kind")(outer, own, x, kind="dense")
    return jax.jit(model.end)(outer, x)


@pytest.mark.parametrize("variant", [*VARIANTS, "reward"])
def test_a_layer_at_a_time_is_the_same_function(variant: str) -> None:
    cfg = replace(configure("untied"), head="reward") if variant == "reward" else configure(variant)
    params = {name: jnp.asarray(w) for name, w in random_params(cfg, seed=1).items()}
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, cfg.vocab_size, (2, cfg.seq_length)))
    rules = rules_for(ONE, 0, False)
    with jax.set_mesh(make_mesh(ONE)):
        model = Model(cfg, rules)
        function = model.text_values if variant == "reward" else model.logits
        expected = jax.jit(function)(params, tokens)
        found = in_steps(ModelInSteps(cfg, rules), params, tokens)
    # Both are float32; one program may fuse what two do not: a few roundings of 6e-8.
    assert relative_l2(np.asarray(found), np.asarray(expected)) <= 5e-7
