"""An objective's loss and gradients here, and by a formula in torch on the same weights."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.config.schema import DataConfig, ModelConfig, TrainConfig
from tests.objectives.batches import batch, model_of
from tests.objectives.formulas import Function
from tests.parallel.meshes import Fields, Mesh, Outcome, train
from tests.reference import neox_torch
from tests.reference.parameters import random_params

BOUND, SMALL = 1e-5, 1e-3
"""A gradient is held by its leaf's norm, or by this part of the greatest norm if that is more."""

TensorFields = Mapping[str, torch.Tensor]
Formula = Callable[[Function, Function, TensorFields], torch.Tensor]


def small(settings: ObjectiveConfig) -> ModelConfig:
    return dataclasses.replace(model_of(settings), num_layers=2)


def ours(
    settings: ObjectiveConfig,
    *,
    mesh: Mesh,
    rows: int,
    z_loss: float = 0.0,
    masked: bool = False,
    itself: bool = False,
) -> tuple[Outcome, Fields]:
    """One step, and the batch that it took.

    Args:
        settings: what is trained for.
        mesh: devices and accumulation steps.
        rows: of the batch.
        z_loss: of a reward model.
        masked: whether some labels do not count, for ordinary training.
        itself: whether the model is its own reference model, as it is at a run's start.
    """
    fields, model = batch(settings, 0, rows), small(settings)
    if masked:
        fields["weights"] = fields.pop("labelled")
    another = settings.has_reference and settings.reference is None and not itself
    outcome = train(
        mesh,
        model,
        batches=[fields],
        reference=random_params(model, 1) if another else None,
        objective=settings,
        train=TrainConfig(1, z_loss=z_loss),
        data=DataConfig(eod_mask_loss=masked),
    )
    return outcome, fields


def theirs(
    settings: ObjectiveConfig,
    fields: Fields,
    formula: Formula,
    parts: int = 1,
    gradients: bool = True,
) -> tuple[float, dict[str, np.ndarray]]:
    """The mean of a formula over equal parts of a batch, and the gradient of every leaf."""
    model = small(settings)
    leaves = {
        name: torch.tensor(leaf, dtype=torch.float64, requires_grad=True)
        for name, leaf in random_params(model, 0).items()
    }
    others = {n: torch.tensor(x, dtype=torch.float64) for n, x in random_params(model, 1).items()}
    policy = partial(neox_torch.forward, leaves, model)
    reference = partial(neox_torch.forward, others, model)
    losses = []
    for part in range(parts):
        cut = {name: np.split(x, parts)[part] for name, x in fields.items()}
        tensors = {
            name: torch.tensor(x, dtype=torch.int64 if x.dtype.kind == "i" else torch.float64)
            for name, x in cut.items()
        }
        losses.append(formula(policy, reference, tensors))
    loss = torch.stack(losses).mean()
    if not gradients:
        return loss.item(), {}
    grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return loss.item(), {name: g.numpy() for name, g in zip(leaves, grads, strict=True)}


def check(outcome: Outcome, loss: float, grads: dict[str, np.ndarray]) -> None:
    assert abs(outcome.losses[0] - loss) <= BOUND * abs(loss), (outcome.losses[0], loss)
    assert outcome.grads.keys() == grads.keys()
    largest = max(np.linalg.norm(grad) for grad in grads.values())
    for name, grad in grads.items():
        size = max(np.linalg.norm(grad), SMALL * largest)
        assert np.linalg.norm(outcome.grads[name] - grad) <= BOUND * size, name
