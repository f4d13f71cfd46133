"""A training that Megatron-LM began, as one of ours: Adam's moments, counters and keys."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint, Moment, Training
from convert.megatron.loss_scale import loss_scale_keys, loss_scale_of
from convert.megatron.schedule import schedule_of
from convert.readers.megatron import MegatronCheckpoint
from convert.readers.megatron_optimizer import MegatronOptimizer
from jaxneox.config.optimization_schema import LossScaleConfig

MOMENTS: tuple[tuple[Moment, str], ...] = (("mu", "exp_avg"), ("nu", "exp_avg_sq"))


def training_keys(
    args: Mapping[str, Any], optimizer: MegatronOptimizer, step: int, precision: str
) -> tuple[dict[str, Any], list[str]]:
    """Return NeoX's keys of the optimizer, the schedule and the batch, and notes on inexact ones.

    Adam's constants are those of the optimizer's own groups, and the schedule is that of its saved
    state; the rest is what the arguments say (Megatron-LM `megatron/training/arguments.py`).
    """
    decays = max(optimizer.groups, key=lambda group: group.get("wd_mult", 1.0))
    schedule = schedule_of(args, optimizer, step)
    betas = [float(b) for b in decays["betas"]]
    params = {"lr": schedule.lr, "betas": betas, "eps": float(decays["eps"])}
    if not _decoupled(args, optimizer.groups):
        params["adam_w_mode"] = False
    keys: dict[str, Any] = {
        "optimizer": {"type": "Adam", "params": params},
        "min_lr": schedule.min_lr,
        "weight_decay": float(decays["weight_decay"]),
        "gradient_clipping": float(args.get("clip_grad") or 0.0),
        "order": "megatron",
    }
    iters = args.get("train_iters")
    if isinstance(iters, int) and iters > 0:
        keys["train_iters"] = iters
    keys |= schedule.keys
    for theirs, ours in (("global_batch_size", "train_batch_size"), ("seed", "seed")):
        if isinstance(args.get(theirs), int):
            keys[ours] = args[theirs]
    micro = args.get("micro_batch_size")
    if isinstance(micro, int):
        keys["max_micro_batch_size" if "train_batch_size" in keys else
             "train_micro_batch_size_per_gpu"] = micro  # fmt: skip
    scale, lost = loss_scale_keys(args, optimizer.scaler) if precision == "fp16" else ({}, [])
    return keys | scale, [*schedule.notes, *lost, *_notes(args, step)]


def _decoupled(args: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether Megatron took the decay from the weights, not adding it to the gradients."""
    of_groups = all(group.get("decoupled_weight_decay", True) for group in groups)
    return of_groups and args.get("decoupled_weight_decay") is not False


def _notes(args: Mapping[str, Any], step: int) -> list[str]:
    notes = []
    batch, seen = args.get("global_batch_size"), args.get("consumed_train_samples")
    if args.get("rampup_batch_size") or args.get("step_batch_size_schedule"):
        notes.append(
            "Megatron's batch grew (rampup_batch_size, step_batch_size_schedule), ours is always "
            f"global_batch_size {batch}: the next samples differ, and so does the learning "
            "rate if it had still to grow"
        )
    elif seen and batch and seen != step * batch:
        notes.append(
            f"consumed_train_samples is {seen}, which is not step {step} of batches of {batch}: "
            "the next samples differ from Megatron's"
        )
    if args.get("start_weight_decay") != args.get("end_weight_decay"):
        notes.append(
            "Megatron's weight decay moved from start_weight_decay to end_weight_decay, ours stays "
            "where it was"
        )
    if args.get("data_path") or args.get("train_data_path"):
        notes.append(
            "set data-path (Megatron's list of weights and prefixes), split and the tokenizer: the "
            "samples are then Megatron's, from the step on where it was (order: megatron)"
        )
    return notes


def as_ours(source: MegatronCheckpoint, optimizer: MegatronOptimizer) -> Training:
    """Return the state in the form that any target takes."""
    schedule = schedule_of(source.shards.args, optimizer, source.shards.step)

    def scale(loss: LossScaleConfig) -> tuple[float, int, int] | None:
        return loss_scale_of(optimizer.scaler, loss)

    moments: dict[Moment, MegatronMoments] = {
        ours: MegatronMoments(optimizer.kinds[theirs]) for ours, theirs in MOMENTS
    }
    facts = training_facts(source, optimizer)
    return Training(optimizer.step, schedule.position, moments, schedule.skipped, scale, facts)


class MegatronMoments(Checkpoint):
    """One of Adam's moments, in float32."""

    def __init__(self, moments: MegatronCheckpoint) -> None:
        self._moments, self.model, self.shapes = moments, moments.model, moments.shapes

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(np.float32)

    def leaf(self, name: str, layer: int | None = None) -> np.ndarray:
        return np.asarray(self._moments.leaf(name, layer), np.float32)


def training_facts(source: MegatronCheckpoint, optimizer: MegatronOptimizer) -> dict[str, Any]:
    """Collect what the certificate says about the state."""
    decays = {group.get("wd_mult", 1.0) for group in optimizer.groups}
    schedule = schedule_of(source.shards.args, optimizer, source.shards.step)
    record = {
        "optimizer": "Adam",
        "updates made": optimizer.step,
        "position of the schedule": schedule.position,
        "weight decay": "matrices and embeddings, not norms and biases"
        if 0.0 in decays
        else "all parameters there; matrices and embeddings here",
    }
    if optimizer.scaler:
        record["loss scale"] = f"{optimizer.scaler.scale:g}"
    return record
