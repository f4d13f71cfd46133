"""AdamW on the torch reference: what twenty steps of training come to in float64."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from jaxneox.config.schema import ModelConfig, OptimizerConfig
from tests.reference import neox_torch


def train_losses(
    cfg: ModelConfig,
    params: Mapping[str, np.ndarray],
    batches: Sequence[np.ndarray],
    optimizer: OptimizerConfig,
) -> list[float]:
    """The loss of each batch of tokens [B, T + 1] before its step, at a constant learning rate."""
    leaves = {
        name: torch.tensor(leaf, dtype=torch.float64, requires_grad=True)
        for name, leaf in params.items()
    }
    groups: list[dict[str, Any]] = [
        {"params": [x for name, x in leaves.items() if decays(name)]},
        {"params": [x for name, x in leaves.items() if not decays(name)], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        groups,
        lr=optimizer.lr,
        betas=optimizer.betas,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
    )
    losses = []
    for tokens in batches:
        adamw.zero_grad()
        tokens_BT = neox_torch.as_tokens(tokens)
        loss = neox_torch.loss(leaves, cfg, tokens_BT[:, :-1], tokens_BT[:, 1:])
        loss.backward()
        adamw.step()
        losses.append(loss.item())
    return losses


def decays(name: str) -> bool:
    """NeoX's groups (megatron/model/utils.py): every parameter of a norm and every bias is spared;
    all matrices decay, and so do the tables of tokens, positions and rpe."""
    parent, _, leaf = name.rpartition(".")
    return "norm" not in parent and not leaf.endswith("bias")
