"""Data, checkpoints, logs and length of a run from NeoX's keys."""

from typing import Any

from jaxneox.config.check import Settings
from jaxneox.config.schema import (
    CheckpointConfig,
    DataConfig,
    GenerationConfig,
    LogConfig,
    RematConfig,
    TrainConfig,
)
from jaxneox.errors import UserError

_SPLITS = ("train", "valid", "test")


def data_config(settings: Settings) -> DataConfig:
    """Raises UserError when data_path and the three lists are mixed, or lengths differ."""
    named = [split for split in _SPLITS if settings[f"{split}_data_paths"]]
    missing = [split for split in _SPLITS if split not in named]
    if named and missing:
        raise UserError(
            f"{named[0]}_data_paths is set without "
            f"{' and '.join(f'{split}_data_paths' for split in missing)}: set all three, or "
            "data_path with split"
        )
    if named and settings["data_path"] is not None:
        raise UserError("data_path and train_data_paths are both set: keep one of the two")
    fields: dict[str, Any] = {}
    for split in _SPLITS:
        fields |= _blend(settings, split)
    return DataConfig(
        path=settings["data_path"],
        split=settings["split"],
        weight_by_num_documents=settings["weight_by_num_documents"],
        weighted_sampler_alpha=settings["weighted_sampler_alpha"],
        pack=settings["pack_impl"],
        allow_chopped=settings["allow_chopped"],
        eod_mask_loss=settings["eod_mask_loss"],
        reset_attention_mask=settings["reset_attention_mask"],
        reset_position_ids=settings["reset_position_ids"],
        order=settings["order"],
        extra_token=settings["add_extra_token_to_sequence"],
        keep_partial_validation=not settings["drop_last_partial_validation_sequence"],
        **fields,
    )


def _blend(settings: Settings, split: str) -> dict[str, Any]:
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
    return {
        f"{split}_paths": tuple(paths),
        f"{split}_weights": tuple(weights),
        f"{split}_label_paths": tuple(labels),
    }


def checkpoint_config(settings: Settings) -> CheckpointConfig:
    return CheckpointConfig(
        save=settings["save"],
        load=settings["load"],
        iteration=settings["iteration"],
        every=settings["checkpoint_factor"],
        scale=settings["checkpoint_scale"],
        extra_iters=tuple(settings["extra_save_iters"] or ()),
        keep_last=settings["keep_last_n_checkpoints"],
        finetune=settings["finetune"],
        save_optimizer=not settings["no_save_optim"],
        load_optimizer=not settings["no_load_optim"],
    )


def log_config(settings: Settings) -> LogConfig:
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
    return LogConfig(
        interval=settings["log_interval"],
        tensorboard_dir=settings["tensorboard_dir"],
        log_dir=settings["log_dir"],
        wandb=wandb if settings["use_wandb"] else None,
        param_norm=settings["log_param_norm"],
        profile=(first, last) if settings["profile"] else None,
        spike_factor=settings["loss_spike_factor"],
        peak_tflops=settings["peak_theoretical_tflops"],
    )


def train_config(settings: Settings) -> TrainConfig:
    return TrainConfig(
        train_iters=settings.needed("train_iters"),
        eval_interval=settings["eval_interval"],
        eval_iters=settings["eval_iters"],
        do_valid=settings["do_valid"] is not False,
        do_test=settings["do_test"] is not False,
        exit_interval=settings["exit_interval"] or None,
        seed=settings["seed"],
        z_loss=settings["z_loss"],
        eval_tasks=tuple(settings["eval_tasks"] or ()),
        eval_results_prefix=settings["eval_results_prefix"],
    )


def remat_config(settings: Settings) -> RematConfig:
    """`remat_policy` where it is given, else full or none as checkpoint_activations says."""
    policy = settings["remat_policy"]
    if policy == "none" and settings["checkpoint_activations"]:
        raise UserError(
            "checkpoint_activations is true but remat_policy is none: set the first to false"
        )
    return RematConfig(policy or ("full" if settings["checkpoint_activations"] else "none"))


def generation_config(settings: Settings) -> GenerationConfig:
    return GenerationConfig(
        kind=settings["text_gen_type"],
        temperature=settings["temperature"],
        top_p=settings["top_p"],
        top_k=settings["top_k"],
        max_tokens=settings["maximum_tokens"],
        prompt_end=settings["prompt_end"],
        input_file=settings["sample_input_file"],
        output_file=settings["sample_output_file"]
        if settings.given("sample_output_file")
        else None,
        samples=settings["num_samples"],
        recompute=settings["recompute"],
    )
