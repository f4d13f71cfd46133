"""The head of a reward model: its values, its place instead of the unembedding, its errors."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneox.config import Settings
from jaxneox.errors import UserError
from jaxneox.model import Model
from jaxneox.parallel.mesh import make_mesh
from jaxneox.parallel.rules import rules_for
from tests.model.variants import configure
from tests.reference.compare import relative_l2, worst_leaf
from tests.reference.parameters import random_params

KEYS = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "seq_length": 16}
KEYS |= {"max_position_embeddings": 16, "padded_vocab_size": 64, "train_impl": "rm"}


def reward(variant: str) -> Model:
    cfg = replace(configure(variant), head="reward", tied_embedding=False, logit_bias=False)
    return Model(cfg, rules_for({"dp": 1}, 0, False))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["parallel", "rmsnorm swiglu gqa no_attention_bias"])
def test_values_and_gradients_as_in_torch(variant: str) -> None:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    from tests.reference import neox_torch

    model = reward(variant)
    params = random_params(model.cfg, 3)
    tokens = np.random.default_rng(4).integers(0, model.cfg.vocab_size, (3, model.cfg.seq_length))
    leaves = {
        n: torch.tensor(w, dtype=torch.float64, requires_grad=True) for n, w in params.items()
    }
    expected = neox_torch.forward(leaves, model.cfg, torch.tensor(tokens))
    torch.sin(expected).sum().backward()
    with jax.set_mesh(make_mesh({"dp": 1})), model.matmuls():
        rows = jnp.asarray(tokens, jnp.int32)[None]
        values, grads = jax.value_and_grad(
            lambda p: (lambda v: (jnp.sin(v).sum(), v))(model.values(p, rows)), has_aux=True
        )({name: jnp.asarray(w) for name, w in params.items()})
    assert values[1].dtype == jnp.float32
    assert relative_l2(values[1][0], expected.detach().numpy()) <= 1e-6
    found = {name: np.asarray(gradient) for name, gradient in grads.items()}
    error, leaf = worst_leaf(found, {name: w.grad.numpy() for name, w in leaves.items()})
    assert error <= 3e-6, leaf


def test_the_product_is_in_float32() -> None:
    """Values of a model that computes in bfloat16 have float32's digits of its hidden states."""
    head = reward("").declaration.part("reward", {"reward.weight": jnp.full((32, 1), 1 + 2.0**-12)})
    found = head(jnp.ones((1, 32), jnp.bfloat16))
    assert found.dtype == jnp.float32 and float(found[0]) == 32 * (1 + 2.0**-12)


@pytest.mark.parametrize("tied", [True, False])
def test_the_keys_of_a_reward_model(tied: bool) -> None:
    """NeoX's own needs no_weight_tying; here the embedding is tied to nothing either way."""
    cfg = Settings(KEYS | {"no_weight_tying": not tied, "logit_bias": True}).model(None)
    assert (cfg.head, cfg.tied_embedding, cfg.logit_bias) == ("reward", False, False)
    shapes = Model(cfg, rules_for({"dp": 1}, 0, False)).shapes
    assert shapes["reward.weight"] == (32, 1)
    assert not [name for name in shapes if name.startswith("unembed")]


def test_what_each_kind_of_model_lacks() -> None:
    model = reward("")
    tokens = jnp.zeros((1, 4), jnp.int32)
    with jax.set_mesh(make_mesh({"dp": 1})):
        params = model.init(jax.random.key(0))
        for function in (model.logits, model.token_losses):
            with pytest.raises(UserError, match="reward model, which has no logits"):
                function(params, tokens)
        with pytest.raises(UserError, match="reward model, which has no logits"):
            model.loss_sum(params, tokens[None], tokens[None], jnp.ones((1, 1, 4)))
        plain = Model(configure(""), model.layout)
        with pytest.raises(UserError, match="not a reward model"):
            plain.values(plain.init(jax.random.key(0)), tokens[None])
