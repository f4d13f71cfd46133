"""Build what a run is trained for from its keys."""

from jaxneox.config.check import CheckedKeys
from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.errors import UserError

PAIRS = {"dpo", "rm"}
WITHOUT_Z_LOSS = {"dpo", "kto", "reinforce"}


def objective_config(settings: CheckedKeys) -> ObjectiveConfig:
    """Build the objective.

    Raises:
        UserError: the kinds of training and of data do not go together.
    """
    kind, dataset = settings["train_impl"], settings["dataset_impl"]
    if dataset == "online":
        raise UserError(
            "dataset_impl: online is not supported, since its server sends pickled objects over a "
            "socket: write prompts, completions and rewards to a file, and train on it with "
            "`jaxneox preprocess --kind completions` and dataset_impl: gpt2"
        )
    expected = "pairwise" if kind in PAIRS else "gpt2"
    if settings.given("dataset_impl") and dataset != expected:
        raise UserError(
            f"train_impl: {kind} is trained on dataset_impl: {expected}, found {dataset}: change "
            "one of the two"
        )
    smoothing = settings["dpo_label_smoothing"]
    if smoothing >= 0.5:
        raise UserError(
            f"dpo_label_smoothing {smoothing:g}: expected a share below 0.5 of the pairs; from "
            "there on the rejected texts would be learned"
        )
    if smoothing and settings["dpo_loss"] != "sigmoid":
        raise UserError(
            f"dpo_label_smoothing: dpo_loss: {settings['dpo_loss']} has no label smoothing; set "
            "it to 0, or take dpo_loss: sigmoid"
        )
    if kind == "reinforce" and settings["kl_impl"] == "full" and settings["precompute_model_name"]:
        raise UserError(
            "kl_impl: full compares whole distributions, and precompute_model_name has the "
            "log-probabilities of labels alone: leave it out, or take mse, abs or kl"
        )
    if kind in WITHOUT_Z_LOSS and settings["z_loss"]:
        settings.note(
            f"z_loss: the loss of train_impl: {kind} has no such part; it changes nothing"
        )
    apart = [name for name in ("reset_attention_mask", "reset_position_ids") if settings[name]]
    if kind != "normal" and apart and settings["precompute_model_name"]:
        raise UserError(
            f"{apart[0]}: the log-probabilities that precompute_model_name reads are those of rows "
            "that are one text each: set it to false, or leave precompute_model_name out"
        )
    return settings.fill(ObjectiveConfig, "objective", as_neox=settings["neox_compat"])
