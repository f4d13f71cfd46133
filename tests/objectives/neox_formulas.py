"""What NeoX HEAD computes where it is not the paper's, in plain torch and float64.

Each is of one micro-batch of NeoX's; its step takes the mean over micro-batches and replicas.
Source: gpt-neox `megatron/training.py`, lines 543 to 860, of ea7aefd8.
"""
# R rows of a micro-batch, T length, V vocabulary

import torch
from torch import Tensor

from jaxneox.config.objective_schema import ObjectiveConfig
from tests.objectives.formulas import (
    Fields,
    Function,
    distance,
    label_logs,
    reference_logs,
    text_logs,
)

NEARLY_0 = 0.001


def kto(policy: Function, reference: Function, batch: Fields, settings: ObjectiveConfig) -> Tensor:
    """The two halves are added element by element, with the mean of each half's weights."""
    rho_R = text_logs(policy, batch["tokens"], batch["labelled"])
    rho_R = rho_R - reference_logs(reference, batch)
    total_R = batch["rewards"].sum(-1)
    weight_R = settings.kto_desirable_weight * (total_R > NEARLY_0)
    weight_R = weight_R + settings.kto_undesirable_weight * (total_R < -NEARLY_0)
    reward_R = batch["rewards"].mean(-1)  # over the padding too
    halves = [x.chunk(2) for x in (rho_R, reward_R, weight_R)]
    baselines = [rho.clamp(min=0).mean().detach() for rho in halves[0]]
    sides = []
    for rho, reward, weight, other in zip(*halves, baselines[::-1], strict=True):
        gain = settings.kto_beta * reward * (rho - other)
        sides.append(0.5 * weight.mean() * (1 - torch.sigmoid(gain)))
    return (sides[0] + sides[1]).mean()


def policy_rewards(
    policy: Function, reference: Function, batch: Fields, settings: ObjectiveConfig
) -> Tensor:
    """KTO's figure is a sum over the rows, and over rewards that are there for every position."""
    with torch.no_grad():
        apart_RT = label_logs(policy, batch["tokens"]) - label_logs(reference, batch["tokens"])
    return settings.kto_beta * (batch["rewards"] * apart_RT * batch["labelled"]).sum()


def reinforce(
    policy: Function, reference: Function, batch: Fields, settings: ObjectiveConfig
) -> Tensor:
    """Its mean over labels is divided by the rows as well."""
    mask, logs_RT = batch["weights"], masked_logs(policy, batch)
    loss = (-logs_RT * batch["reward"][:, None] * mask).sum() / mask.sum()
    kl_RT = distance(policy, reference, batch["tokens"], settings)
    loss = loss + settings.kl_weight * (kl_RT * mask).sum() / mask.sum()
    return loss / len(mask)


def masked_logs(policy: Function, batch: Fields) -> Tensor:
    """The log-probabilities of which NeoX logs the mean: token 0 stands where none counts."""
    labels_RT = torch.where(batch["weights"] > 0, batch["tokens"][:, 1:], 0)
    logs_RTV = torch.log_softmax(policy(batch["tokens"][:, :-1]), dim=-1)
    return logs_RTV.gather(-1, labels_RT[..., None])[..., 0]
