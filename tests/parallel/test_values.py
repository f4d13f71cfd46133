"""A reward model's values on every mesh as on one device, with their gradients."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

from jaxneox.model import Noise
from jaxneox.objectives import WEIGHTS, Batch, Models, NextToken, Sums
from tests.parallel.cases import GRADIENT, LOSS
from tests.parallel.meshes import LENGTH, MODEL, Mesh, apart, train

REWARD = dataclasses.replace(MODEL, head="reward")

MESHES = [
    Mesh(4),
    Mesh(2, 2, 1, True),
    Mesh(2, 2, 2, True, 2),
    Mesh(2, 2, 3),
    Mesh(1, 1, 3, accumulation=4, pp=4),
    Mesh(2, 2, accumulation=2, pp=2),
    Mesh(2, 1, 1, accumulation=4, pp=2, chunks=2),
    Mesh(1, 2, cp=2),
    Mesh(1, 2, 3, True, 2, cp=2, attention="ring"),
    Mesh(2, 1, accumulation=2, pp=2, cp=2, attention="ring"),
]


@dataclass(frozen=True)
class Far(NextToken):
    """How far each position's value is from a number that depends on where it stands."""

    def sums(self, models: Models, part: Batch, noise: Noise | None) -> tuple[jax.Array, Sums]:
        model = models.model
        tokens_MBT, weights_MBT = part["tokens"][..., :-1], part[WEIGHTS]
        aims_MBT = jnp.broadcast_to(jnp.sin(jnp.arange(1.0, LENGTH + 1)), weights_MBT.shape)
        aims_MBT = model.laid(jax.reshard(aims_MBT, jax.typeof(weights_MBT).sharding))
        values_MBT = model.values(models.params, tokens_MBT, noise)
        assert jax.typeof(values_MBT).sharding == jax.typeof(aims_MBT).sharding
        each = (values_MBT - aims_MBT) ** 2 * model.laid(weights_MBT)
        return jnp.sum(each), {}


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_every_mesh_as_one_device(dropout: float) -> None:
    model = dataclasses.replace(REWARD, hidden_dropout=dropout)
    expected = train(Mesh(), model, aim=Far(LENGTH))
    assert "reward.weight" in expected.grads and "unembed.weight" not in expected.grads
    for mesh in MESHES if dropout == 0.0 else MESHES[1::4]:
        found = train(mesh, model, aim=Far(LENGTH))
        assert found.losses == pytest.approx(expected.losses, rel=LOSS), mesh
        assert max(apart(found.grads, expected.grads).values()) <= GRADIENT, mesh
