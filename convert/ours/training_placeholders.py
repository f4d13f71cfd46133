"""Placeholder settings for training a model whose files do not say how it was trained."""

from typing import Any

RATE = 1e-5
"""A learning rate that is low enough for any pretrained model."""

TRAINING: dict[str, Any] = {
    "train_iters": 1,
    "train_micro_batch_size_per_gpu": 1,
    "optimizer": {"type": "Adam", "params": {"lr": RATE}},
    "warmup": 0.0,
}
"""The least that makes a run of a model's keys; any warm-up would give its one step the rate 0."""

OPTIMIZER_KEYS = ("train_micro_batch_size_per_gpu", "optimizer", "warmup")
"""The keys of TRAINING that are left out if an optimizer is converted, which has its own."""


def is_placeholder(keys: Any) -> bool:
    """Tell whether a configuration has only these placeholders for its training."""
    return keys.get("train_iters") == 1 and keys.get("optimizer") in (None, TRAINING["optimizer"])
