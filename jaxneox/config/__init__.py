"""NeoX's YAML keys and what they mean: files -> keys -> a frozen `Config`."""

from jaxneox.config.describe import describe, saved_keys
from jaxneox.config.merge import load_yaml
from jaxneox.config.override import apply_set
from jaxneox.config.resolve import (
    data_run_of,
    generation_of,
    model_of,
    parallel_of,
    resolve,
    schedule_of,
    tokenizer_of,
    train_iters_of,
)
from jaxneox.config.schema import Config

__all__ = [
    "Config",
    "apply_set",
    "data_run_of",
    "describe",
    "generation_of",
    "load_yaml",
    "model_of",
    "parallel_of",
    "resolve",
    "saved_keys",
    "schedule_of",
    "tokenizer_of",
    "train_iters_of",
]
