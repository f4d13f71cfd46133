"""One's own loss, its gradient and a Hessian-vector product, against torch in float64."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")

from tests.infer.models import speaker  # noqa: E402
from tests.infer.test_pure import own_loss  # noqa: E402
from tests.reference import neox_torch  # noqa: E402
from tests.reference.compare import worst_leaf  # noqa: E402

# float32 rounds by 6e-8, some hundred times in a row forward, backward and again
BOUND = 1e-5


def in_torch(
    params: Mapping[str, np.ndarray],
    v: Mapping[str, np.ndarray],
    cfg,
    tokens: np.ndarray,
) -> tuple[float, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The loss, its gradient and the Hessian times `v`, float64."""
    leaves = {
        n: torch.tensor(w, dtype=torch.float64, requires_grad=True) for n, w in params.items()
    }
    inputs, labels = torch.tensor(tokens[:, :-1]), torch.tensor(tokens[:, 1:])
    loss = neox_torch.loss(leaves, cfg, inputs, labels)
    grads = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
    along = sum(
        (g * torch.tensor(v[n], dtype=torch.float64)).sum()
        for g, n in zip(grads, leaves, strict=True)
    )
    products = torch.autograd.grad(along, list(leaves.values()))
    return (
        loss.item(),
        {n: g.detach().numpy() for n, g in zip(leaves, grads, strict=True)},
        {n: h.numpy() for n, h in zip(leaves, products, strict=True)},
    )


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["dp=1", "dp=2,tp=2"])
def test_the_derivatives_are_torchs(mesh: str) -> None:
    model = speaker(mesh)
    random = np.random.default_rng(0)
    params = {name: np.asarray(w) for name, w in model.params.items()}
    v = {name: random.normal(size=w.shape).astype(np.float32) for name, w in params.items()}
    tokens = random.integers(0, 255, (4, 13))
    loss, gradient, product = in_torch(params, v, model.config.model, tokens)
    rows = jnp.asarray(tokens)
    found, grads = jax.value_and_grad(lambda p: own_loss(model, p, rows))(dict(model.params))
    assert found == pytest.approx(loss, rel=BOUND)
    assert worst_leaf(grads, gradient)[0] <= BOUND
    slope = jax.jit(jax.grad(lambda p: own_loss(model, p, rows)))
    products = jax.jit(lambda p: jax.jvp(slope, (p,), (v,))[1])(dict(model.params))
    error, leaf = worst_leaf(products, product)
    assert error <= BOUND, leaf
