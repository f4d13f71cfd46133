"""The bytes of a device that are known without compiling, by kind."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from jaxneox.model import Params
from jaxneox.objectives import Batch
from jaxneox.train.checkpoints.restore import abstract_state
from jaxneox.train.dry_run.program import abstract_batch
from jaxneox.train.plan import TrainPlan
from jaxneox.train.step.offload import HOST
from jaxneox.train.step.state import frozen, param_specs, trained
from jaxneox.train.step.step import prepared


@dataclass(frozen=True)
class Memory:
    """Bytes of one device, as far as they are known without compiling.

    Attributes:
        parameters: float32, with those of a reference model.
        optimizer: its state, and the sum of gradients of which the noise is measured.
        batch: tokens and weights of a step.
        gradients: the sums of a step, float32.
        kept: what the forward pass of one micro-batch keeps for the backward pass.
    """

    parameters: int
    optimizer: int
    batch: int
    gradients: int
    kept: int

    @property
    def known(self) -> int:
        return self.parameters + self.optimizer + self.batch + self.gradients + self.kept


def memory_of(plan: TrainPlan, mesh: Mesh) -> Memory:
    at = param_specs(plan.model, plan.rules)
    state = abstract_state(plan, mesh)
    gradients = {
        name: jax.ShapeDtypeStruct(
            shape, jnp.float32, sharding=NamedSharding(mesh, at.gradients[name])
        )
        for name, shape in trained(plan, plan.model.shapes).items()
    }
    return Memory(
        parameters=on_a_device(state.params) + on_a_device(state.reference),
        optimizer=on_a_device(state.opt_state) + on_a_device(state.noise_scale),
        batch=on_a_device(abstract_batch(plan, mesh)),
        gradients=on_a_device(gradients),
        kept=kept(plan, mesh),
    )


def kept(plan: TrainPlan, mesh: Mesh) -> int:
    """Count the bytes that the forward pass keeps of one micro-batch on the device.

    With a pipeline they are those of all micro-batches, which pass it together.
    """
    batch = abstract_batch(plan, mesh)
    together = plan.sizes["pp"] > 1
    cut = slice(None) if together else slice(0, 1)

    def backward(params: Params, reference: Params | None, batch: Batch) -> Any:
        batch, _ = prepared(plan, params, reference, batch)
        part = {name: field[cut] for name, field in batch.items()}
        resting = frozen(plan, params)

        def loss(learning: Params) -> jax.Array:
            models = plan.models(learning | resting, reference)
            return plan.objective.sums(models, part, None)[0]

        return jax.vjp(loss, trained(plan, params))[1]

    with jax.set_mesh(mesh):
        state = abstract_state(plan, mesh)
        given = state.params, state.reference, batch
        residuals: Any = jax.make_jaxpr(backward)(*given).out_avals
    own = {(leaf.shape, leaf.dtype) for leaf in state.params.values()}
    here = [leaf for leaf in residuals if leaf.memory_space == jax.memory.Space.Device]
    return sum(on_a_device(leaf) for leaf in here if (leaf.shape, leaf.dtype) not in own)


def on_a_device(tree: Any) -> int:
    """Count the bytes that one device holds of arrays that are given by shape and sharding."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        if getattr(leaf.sharding, "memory_kind", None) == HOST:
            continue
        shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
        total += math.prod(shape) * leaf.dtype.itemsize
    return total
