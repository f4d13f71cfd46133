"""Build the parts of a run that are neither its model nor its optimization."""

from jaxneox.config.check import CheckedKeys
from jaxneox.config.fates import at_least_1
from jaxneox.config.schema import (
    DataConfig,
    GenerationConfig,
    LogConfig,
    ParallelConfig,
    RematConfig,
    TokenizerConfig,
)
from jaxneox.errors import UserError

_SPLITS = ("train", "valid", "test")


def data_config(settings: CheckedKeys) -> DataConfig:
    """Build the data; raise UserError if data_path and the lists are mixed, or lengths differ.

    NeoX wants the paths of all three splits. Here those of training are enough: what has no paths
    is not evaluated.
    """
    named = [split for split in _SPLITS if settings[f"{split}_data_paths"]]
    if named and "train" not in named:
        raise UserError(
            f"{named[0]}_data_paths is set without train_data_paths: set them too, or data_path "
            "with split"
        )
    unnamed = [split for split in _SPLITS if split not in named]
    missing = [f"{split}_data_paths" for split in unnamed if settings[f"do_{split}"] is not False]
    if named and missing and settings["eval_iters"]:
        settings.note(
            f"{' and '.join(missing)} not set: nothing is evaluated there, as with eval_iters: 0"
        )
    if named and settings["data_path"] is not None:
        raise UserError("data_path and train_data_paths are both set: keep one of the two")
    for split in _SPLITS:
        _check_blend(settings, split)
    return settings.fill(DataConfig, "data")


def _check_blend(settings: CheckedKeys, split: str) -> None:
    paths = settings[f"{split}_data_paths"] or []
    labels = settings[f"{split}_label_data_paths"] or []
    weights = settings[f"{split}_data_weights"] or []
    for name, entries in (("data_weights", weights), ("label_data_paths", labels)):
        if entries and len(entries) != len(paths):
            raise UserError(
                f"{split}_{name} has {len(entries)} entries but {split}_data_paths has "
                f"{len(paths)}: give one per path"
            )
    if any(weight < 0 for weight in weights) or (weights and not sum(weights)):
        raise UserError(f"{split}_data_weights: found {weights}, expected none below 0, one above")


def log_config(settings: CheckedKeys) -> LogConfig:
    """Build the logs; raise UserError if the profile ends before it starts."""
    first, last = settings["profile_step_start"], settings["profile_step_stop"]
    if settings["profile"] and first > last:
        raise UserError(f"profile_step_start {first} is after profile_step_stop {last}")
    wandb = {
        name: settings[f"wandb_{key}"]
        for name, key in {
            "project": "project",
            "group": "group",
            "team": "team",
            "host": "host",
            "name": "run_name",
        }.items()
    }
    return settings.fill(
        LogConfig,
        "log",
        wandb=wandb if settings["use_wandb"] else None,
        profile=(first, last) if settings["profile"] else None,
    )


def remat_config(settings: CheckedKeys) -> RematConfig:
    """Build the rematerialization: `remat_policy`, or what checkpoint_activations asks for."""
    policy = settings["remat_policy"]
    if policy == "none" and settings["checkpoint_activations"]:
        raise UserError(
            "checkpoint_activations is true but remat_policy is none: set the first to false"
        )
    by_default = "full" if settings["checkpoint_activations"] else "none"
    return settings.fill(RematConfig, "remat", policy=policy or by_default)


def generation_config(settings: CheckedKeys) -> GenerationConfig:
    """Build the generation of text.

    Texts are printed where no output file is given; the key's default is the file that NeoX writes.
    """
    output_file = settings["genfile"]
    if settings.given("sample_output_file"):
        output_file = settings["sample_output_file"]
        if settings["genfile"] not in (None, output_file):
            settings.note(f"genfile changes nothing: sample_output_file is {output_file}")
    return settings.fill(GenerationConfig, "generation", output_file=output_file)


def parallel_config(settings: CheckedKeys) -> ParallelConfig:
    """Build what the YAML asks of the mesh; raise UserError for a missing or unknown ZeRO stage."""
    if settings["zero_optimization"] and not settings.given("zero_optimization.stage"):
        raise UserError("zero_optimization: stage is missing: set it to 0, 1, 2 or 3")
    stage = settings["zero_optimization.stage"]
    if stage not in (0, 1, 2, 3):
        raise UserError(f"zero_optimization.stage: found {stage}, expected 0, 1, 2 or 3")
    return settings.fill(ParallelConfig, "parallel")


def tokenizer_config(settings: CheckedKeys) -> TokenizerConfig:
    """Build the tokenizer's part.

    The model parallel size belongs to it as well, since the vocabulary is padded to a multiple.
    """
    parts = at_least_1(settings["model_parallel_size"])
    return settings.fill(TokenizerConfig, "tokenizer", model_parallel=parts)
