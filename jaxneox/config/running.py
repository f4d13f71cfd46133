"""Build the parts of a run that are neither its model, its optimization nor its data."""

from jaxneox.config.check import CheckedKeys
from jaxneox.config.fates import at_least_1
from jaxneox.config.schema import (
    GenerationConfig,
    LogConfig,
    ParallelConfig,
    RematConfig,
    TokenizerConfig,
)
from jaxneox.errors import UserError


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
        noise_scale=_noise_scale(settings),
        wandb=wandb if settings["use_wandb"] else None,
        profile=(first, last) if settings["profile"] else None,
    )


def _noise_scale(settings: CheckedKeys) -> int | None:
    """Return the steps of an estimate of the gradient noise scale; None where it is not logged."""
    if not settings["log_gradient_noise_scale"]:
        return None
    if settings["rampup_batch_size"]:
        raise UserError(
            "log_gradient_noise_scale compares batches of one size, and rampup_batch_size changes "
            "it: leave one of the two out"
        )
    steps: int = settings["gradient_noise_scale_n_batches"]
    return steps


OFFLOAD_KEYS = {"device", "pin_memory", "buffer_count", "fast_init", "ratio", "nvme_path"}
OFFLOAD_KEYS |= {"pipeline_read", "pipeline_write", "pipeline", "max_in_cpu", "buffer_size"}
"""What DeepSpeed's block may have; all but the device say how DeepSpeed does it."""


def remat_config(settings: CheckedKeys) -> RematConfig:
    """Build the rematerialization: `remat_policy`, or what checkpoint_activations asks for."""
    policy = settings["remat_policy"]
    if policy == "none" and settings["checkpoint_activations"]:
        raise UserError(
            "checkpoint_activations is true but remat_policy is none: set the first to false"
        )
    by_default = "full" if settings["checkpoint_activations"] else "none"
    remat = settings.fill(RematConfig, "remat", policy=policy or by_default)
    if remat.in_cpu and remat.policy == "none":
        raise UserError(
            "checkpoint_in_cpu moves what checkpointed layers keep, and none are: set "
            "checkpoint_activations to true"
        )
    return remat


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
    asked = settings["zero_optimization.offload_optimizer"] or {}
    old = "cpu" if settings["zero_optimization.cpu_offload"] else "none"
    device = asked.get("device", old)
    if old == "cpu" and device == "none":
        raise UserError(
            "zero_optimization: cpu_offload is true, but offload_optimizer has device: none: keep "
            "one of the two"
        )
    unknown = sorted(set(asked) - OFFLOAD_KEYS)
    if device not in ("none", "cpu") or unknown:
        found = f"the key {unknown[0]!r}" if unknown else f"device: {device}"
        raise UserError(
            f"zero_optimization.offload_optimizer: found {found}, expected device: cpu or none"
        )
    return settings.fill(ParallelConfig, "parallel", offload_optimizer=device == "cpu")


def tokenizer_config(settings: CheckedKeys) -> TokenizerConfig:
    """Build the tokenizer's part.

    The model parallel size belongs to it as well, since the vocabulary is padded to a multiple.
    """
    parts = at_least_1(settings["model_parallel_size"])
    return settings.fill(TokenizerConfig, "tokenizer", model_parallel=parts)
