"""From merged keys to a whole `Config`, and to the two parts that are wanted before it."""

from collections.abc import Mapping
from typing import Any, cast

from jaxneox.config.architecture import model_config, padded_vocab
from jaxneox.config.batch import batch_config
from jaxneox.config.batches import DataRun
from jaxneox.config.check import Settings
from jaxneox.config.optimization import optimizer_config, precision_config, schedule_config
from jaxneox.config.running import (
    checkpoint_config,
    data_config,
    generation_config,
    log_config,
    remat_config,
    train_config,
)
from jaxneox.config.schema import (
    Config,
    GenerationConfig,
    ModelConfig,
    ParallelConfig,
    ScheduleConfig,
    TokenizerConfig,
)
from jaxneox.errors import UserError


def resolve(keys: Mapping[str, Any], *, dp: int, vocab_size: int | None) -> Config:
    """The run that `keys` describe on a mesh whose data parallel size is `dp`.

    `vocab_size` is the tokenizer's, unpadded; None where `padded_vocab_size` is among the keys.
    Raises UserError for unknown, refused, mistyped, missing and contradictory keys.
    """
    settings = Settings(keys)
    tokenizer = _tokenizer(settings)
    optimizer = optimizer_config(settings)
    return Config(
        model=model_config(settings, padded_vocab(tokenizer, vocab_size)),
        precision=precision_config(settings),
        optimizer=optimizer,
        schedule=schedule_config(settings, optimizer.lr),
        parallel=_parallel(settings),
        batch=batch_config(settings, dp),
        remat=remat_config(settings),
        tokenizer=tokenizer,
        data=data_config(settings),
        checkpoint=checkpoint_config(settings),
        log=log_config(settings),
        train=train_config(settings),
        generation=generation_config(settings),
        neox_compat=settings["neox_compat"],
        keys=dict(keys),
        notes=tuple(settings.notes),
    )


def data_run_of(keys: Mapping[str, Any], *, dp: int, vocab_size: int | None) -> DataRun:
    """What the batches depend on, from YAMLs that need not say what is trained on them.

    The padded vocabulary is None where there is neither a tokenizer nor `padded_vocab_size`.
    """
    settings = Settings(keys)
    tokenizer = _tokenizer(settings)
    known = tokenizer.padded_size is not None or vocab_size is not None
    return DataRun(
        data_config(settings),
        batch_config(settings, dp),
        train_config(settings),
        settings.needed("seq_length"),
        padded_vocab(tokenizer, vocab_size) if known else None,
    )


def parallel_of(keys: Mapping[str, Any]) -> ParallelConfig:
    """What the mesh is made from, before there is one."""
    return _parallel(Settings(keys))


def tokenizer_of(keys: Mapping[str, Any]) -> TokenizerConfig:
    """What the tokenizer is made from, before its vocabulary's size is known."""
    return _tokenizer(Settings(keys))


def train_iters_of(keys: Mapping[str, Any]) -> int:
    """The length of a run, before its folder is chosen."""
    return Settings(keys).needed("train_iters")


def model_of(keys: Mapping[str, Any], *, vocab_size: int | None) -> ModelConfig:
    """The model alone, from YAMLs that need not say how it is trained."""
    settings = Settings(keys)
    return model_config(settings, padded_vocab(_tokenizer(settings), vocab_size))


def schedule_of(keys: Mapping[str, Any]) -> ScheduleConfig:
    """The learning rate's schedule alone, of a run's saved keys."""
    settings = Settings(keys)
    return schedule_config(settings, optimizer_config(settings).lr)


def generation_of(keys: Mapping[str, Any]) -> GenerationConfig:
    """How text is generated, from YAMLs that may say nothing else."""
    return generation_config(Settings(keys))


def _parallel(settings: Settings) -> ParallelConfig:
    if settings["zero_optimization"] and not settings.given("zero_optimization.stage"):
        raise UserError("zero_optimization: stage is missing: set it to 0, 1, 2 or 3")
    stage = settings["zero_optimization.stage"]
    if stage not in (0, 1, 2, 3):
        raise UserError(f"zero_optimization.stage: found {stage}, expected 0, 1, 2 or 3")
    return ParallelConfig(
        tp=max(1, settings["model_parallel_size"]),
        pp=max(1, settings["pipe_parallel_size"]),
        cp=settings["context_parallel_size"],
        zero_stage=cast(Any, stage),
        sequence_parallel=settings["sequence_parallel"],
        chunks=settings["pipe_parallel_chunks"],
        attention=settings["context_parallel_attention"],
    )


def _tokenizer(settings: Settings) -> TokenizerConfig:
    return TokenizerConfig(
        kind=settings["tokenizer_type"],
        vocab_file=settings["vocab_file"],
        merge_file=settings["merge_file"],
        divisible_by=settings["make_vocab_size_divisible_by"],
        model_parallel=max(1, settings["model_parallel_size"]),
        padded_size=settings["padded_vocab_size"],
        eod_token=settings["eod_token"],
    )
