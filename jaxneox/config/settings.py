"""A run's settings: its YAML keys, checked once, and the parts of `Config` that they make."""

from dataclasses import replace
from functools import cached_property

from jaxneox.config.architecture import model_config, padded_vocab
from jaxneox.config.batch import batch_config
from jaxneox.config.check import CheckedKeys
from jaxneox.config.curriculum import curriculum_config
from jaxneox.config.data import data_config
from jaxneox.config.data_schema import DataRun
from jaxneox.config.objective import objective_config
from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.config.optimization import optimizer_config, precision_config, schedule_config
from jaxneox.config.running import (
    generation_config,
    log_config,
    parallel_config,
    remat_config,
    tokenizer_config,
)
from jaxneox.config.schema import (
    BatchConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    GenerationConfig,
    LogConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    PrecisionConfig,
    RematConfig,
    ScheduleConfig,
    TokenizerConfig,
    TrainConfig,
)
from jaxneox.errors import UserError


class Settings(CheckedKeys):
    """Checked keys that are asked for the parts of a run, or for the whole of it.

    A part needs only its own keys: a YAML file that describes a model and not its training can be
    asked for `model` and `tokenizer`. Asking for a part raises UserError where keys that it needs
    are missing or contradict each other.

    Example:
        settings = Settings(load_yaml(["pythia-70m"]))
        settings.parallel.tp, settings.model(vocab_size=50277).num_layers
    """

    @cached_property
    def tokenizer(self) -> TokenizerConfig:
        return tokenizer_config(self)

    @cached_property
    def parallel(self) -> ParallelConfig:
        return parallel_config(self)

    @cached_property
    def precision(self) -> PrecisionConfig:
        return precision_config(self)

    @cached_property
    def optimizer(self) -> OptimizerConfig:
        return optimizer_config(self)

    @cached_property
    def schedule(self) -> ScheduleConfig:
        return schedule_config(self, self.optimizer.lr)

    @cached_property
    def data(self) -> DataConfig:
        return data_config(self)

    @cached_property
    def generation(self) -> GenerationConfig:
        return generation_config(self)

    @cached_property
    def remat(self) -> RematConfig:
        return remat_config(self)

    @cached_property
    def log(self) -> LogConfig:
        return log_config(self)

    @cached_property
    def checkpoint(self) -> CheckpointConfig:
        return self.fill(CheckpointConfig, "checkpoint")

    @cached_property
    def train(self) -> TrainConfig:
        kind = self["train_impl"]
        if self["char_level_ppl"] and kind != "normal":
            raise UserError(
                f"char_level_ppl: the loss of train_impl: {kind} is not that of tokens, of which a "
                "perplexity is made: set it to false"
            )
        return self.fill(TrainConfig, "train", curriculum=curriculum_config(self))

    @cached_property
    def objective(self) -> ObjectiveConfig:
        return objective_config(self)

    @property
    def train_iters(self) -> int:
        iters: int = self.needed("train_iters")
        return iters

    def model(self, vocab_size: int | None) -> ModelConfig:
        """Build the model.

        Args:
            vocab_size: the tokenizer's, not padded, or None where `padded_vocab_size` is given.
        """
        return model_config(self, padded_vocab(self.tokenizer, vocab_size))

    def batch(self, dp: int) -> BatchConfig:
        """Build the batch for a mesh whose data parallel size is `dp`."""
        return batch_config(self, dp)

    def data_run(self, dp: int, vocab_size: int | None) -> DataRun:
        """Build what the batches depend on.

        The padded vocabulary is None where there is neither a tokenizer nor `padded_vocab_size`.
        """
        known = self.tokenizer.padded_size is not None or vocab_size is not None
        return DataRun(
            data=self.data,
            batch=self.batch(dp),
            train=self.train,
            seq_length=self.needed("seq_length"),
            vocab_size=padded_vocab(self.tokenizer, vocab_size) if known else None,
            objective=self.objective,
        )

    def resolve(self, dp: int, vocab_size: int | None) -> Config:
        """Build the whole run.

        Args:
            dp: the data parallel size of the mesh.
            vocab_size: the tokenizer's, not padded, or None where `padded_vocab_size` is given.
        """
        model = self.model(vocab_size)
        return self.fill(
            Config,
            "",
            tokenizer=self.tokenizer,
            optimizer=replace(self.optimizer, widths=model.init.widths),
            model=model,
            precision=self.precision,
            schedule=self.schedule,
            parallel=self.parallel,
            batch=self.batch(dp),
            remat=self.remat,
            data=self.data,
            checkpoint=self.checkpoint,
            log=self.log,
            train=self.train,
            objective=self.objective,
            generation=self.generation,
            keys=self.keys,
            notes=tuple(self.notes),
        )
