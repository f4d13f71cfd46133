"""How to train on a model whose files say nothing of its training."""

from typing import Any

RATE = 1e-5
"""A learning rate that is low enough for any pretrained model."""

TRAINING: dict[str, Any] = {
    "train_iters": 1,
    "train_micro_batch_size_per_gpu": 1,
    "optimizer": {"type": "Adam", "params": {"lr": RATE}},
    "warmup": 0.0,
}
"""The least that makes a run of a model's keys; a warm-up would give its one step the rate 0."""

OPTIMIZER_SAYS = ("train_micro_batch_size_per_gpu", "optimizer", "warmup")
"""The keys of TRAINING that are left out where an optimizer is converted: it has its own."""


def is_unsaid(keys: Any) -> bool:
    """Tell whether a configuration has only these placeholders for its training."""
    return keys.get("train_iters") == 1 and keys.get("optimizer") in (None, TRAINING["optimizer"])
