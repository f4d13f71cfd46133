"""What is kept of a model, against transformers' hidden states and torch's gradients."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxneox

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")

from tests.convert.hf_models import GPT_NEOX, write_run  # noqa: E402
from tests.infer.models import speaker  # noqa: E402
from tests.reference import neox_torch  # noqa: E402
from tests.reference.compare import relative_l2, worst_leaf  # noqa: E402

# Two float32 forward passes: about ten roundings of 6e-8 in a row for each layer.
VALUES = 1e-6
# float32 rounds by 6e-8, some hundred times in a row forward and backward
GRADIENTS = 1e-5

STYLES = {
    "parallel": GPT_NEOX,
    "sequential": GPT_NEOX | {"gpt_j_residual": False},
    "tied, tanh": GPT_NEOX | {"no_weight_tying": False, "bias_gelu_fusion": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_residuals_are_the_hidden_states_of_transformers(tmp_path: Path, style: str) -> None:
    write_run(tmp_path / "run", STYLES[style] | {"num_layers": 3})
    model = jaxneox.load(tmp_path / "run")
    theirs = transformers.GPTNeoXForCausalLM.from_pretrained(model.to_hf(tmp_path / "hf")).eval()
    tokens = np.random.default_rng(1).integers(0, 40, (2, 16))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens), output_hidden_states=True)
    logits, kept = model.trace(tokens, keep=["layers.*.residual"])
    assert relative_l2(logits, expected.logits.numpy()) <= VALUES
    *inner, last = [x.numpy() for x in expected.hidden_states[1:]]
    *residuals, residual = kept.values()
    for found, hidden in zip(residuals, inner, strict=True):
        assert relative_l2(found, hidden) <= VALUES
    with torch.no_grad():
        normed = theirs.gpt_neox.final_layer_norm(torch.tensor(np.asarray(residual))).numpy()
    assert relative_l2(normed, last) <= VALUES


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["dp=1", "dp=2,tp=2"])
def test_the_gradient_through_a_residual_is_torchs(mesh: str) -> None:
    """The gradient of a sum of one layer's cubes; the layers after it have no part in it."""
    model = speaker(mesh, num_layers=3)
    tokens = np.random.default_rng(0).integers(0, 255, (4, 12))
    cfg = model.config.model

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        kept = model.trace(tokens, ["layers.1.residual"], params=params)[1]
        return jnp.mean(kept["layers.1.residual"] ** 3)

    leaves = {
        name: torch.tensor(np.asarray(w), dtype=torch.float64, requires_grad=True)
        for name, w in model.params.items()
    }
    x = neox_torch.embed(leaves, cfg, neox_torch.as_tokens(tokens))
    bias = neox_torch.score_bias(leaves, cfg, tokens.shape[1], torch.float64)
    for index in range(2):
        layer = {name: w[index] for name, w in neox_torch.within(leaves, "layers").items()}
        x, _ = neox_torch.block(layer, cfg, x, bias)
    expected = torch.autograd.grad((x**3).mean(), list(leaves.values()), materialize_grads=True)
    found, gradient = jax.jit(jax.value_and_grad(loss))(dict(model.params))
    assert found == pytest.approx((x**3).mean().item(), rel=GRADIENTS)
    theirs = {name: g.numpy() for name, g in zip(leaves, expected, strict=True)}
    assert worst_leaf(gradient, theirs)[0] <= GRADIENTS
    assert not np.asarray(gradient["unembed.weight"]).any()
