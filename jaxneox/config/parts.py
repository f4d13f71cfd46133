"""Build one part of a configuration, for callers that need nothing else of their keys."""

from collections.abc import Mapping
from typing import Any

from jaxneox.config.data_schema import DataRun
from jaxneox.config.schema import (
    Config,
    ModelConfig,
    ParallelConfig,
    ScheduleConfig,
    TokenizerConfig,
)
from jaxneox.config.settings import Settings

Keys = Mapping[str, Any]


def resolve(keys: Keys, *, dp: int, vocab_size: int | None) -> Config:
    """Build the whole run; `Settings.resolve` explains the arguments."""
    return Settings(keys).resolve(dp, vocab_size)


def data_run_of(keys: Keys, *, dp: int, vocab_size: int | None) -> DataRun:
    """Build what the batches depend on; `Settings.data_run` explains the arguments."""
    return Settings(keys).data_run(dp, vocab_size)


def model_of(keys: Keys, *, vocab_size: int | None) -> ModelConfig:
    """Build the model; `Settings.model` explains the arguments."""
    return Settings(keys).model(vocab_size)


def parallel_of(keys: Keys) -> ParallelConfig:
    """Build what the keys ask of the mesh."""
    return Settings(keys).parallel


def tokenizer_of(keys: Keys) -> TokenizerConfig:
    """Build what the keys say of the tokenizer."""
    return Settings(keys).tokenizer


def schedule_of(keys: Keys) -> ScheduleConfig:
    """Build the learning rate's schedule."""
    return Settings(keys).schedule
