"""A training that Megatron-LM began, as one of ours: Adam's moments, counters and keys."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from convert.readers.megatron import MegatronCheckpoint
from convert.readers.megatron_optimizer import MegatronOptimizer
from convert.rules.megatron import rules
from convert.writers.jaxneox import JaxneoxWriter
from convert.writers.training import Moment, TrainingWriter
from jaxneox.config.schema import Config

MOMENTS: tuple[tuple[Moment, str], ...] = (("mu", "exp_avg"), ("nu", "exp_avg_sq"))
STYLES = ("constant", "linear", "cosine")


def training_keys(
    args: Mapping[str, Any], optimizer: MegatronOptimizer, step: int
) -> tuple[dict[str, Any], list[str]]:
    """NeoX's keys of the optimizer, the schedule and the batch, and what is not quite the same.

    Adam's constants are those of the optimizer's own groups; the rest is what the arguments say
    (Megatron-LM `megatron/training/arguments.py`, `core/optimizer_param_scheduler.py`).
    """
    decays = max(optimizer.groups, key=lambda group: group.get("wd_mult", 1.0))
    lr = float(decays.get("max_lr") or args.get("lr") or decays["lr"])
    low = float(decays.get("min_lr") or args.get("min_lr") or 0.0)
    params = {"lr": lr, "betas": [float(b) for b in decays["betas"]], "eps": float(decays["eps"])}
    keys: dict[str, Any] = {
        "optimizer": {"type": "Adam", "params": params},
        "min_lr": low,
        "weight_decay": float(decays["weight_decay"]),
        "gradient_clipping": float(args.get("clip_grad") or 0.0),
        "order": "megatron",
    }
    iters = args.get("train_iters")
    decay_iters = _iterations(args, "lr_decay") or iters
    if isinstance(iters, int) and iters > 0:
        keys["train_iters"] = iters
    if isinstance(decay_iters, int) and decay_iters > 0:
        keys["lr_decay_iters"] = decay_iters
        fraction = args.get("lr_warmup_fraction")
        warmup = _iterations(args, "lr_warmup") / decay_iters
        keys["warmup"] = float(fraction) if fraction is not None else warmup
    style = args.get("lr_decay_style")
    if style in STYLES:
        keys["lr_decay_style"] = style
    for theirs, ours in (("global_batch_size", "train_batch_size"), ("seed", "seed")):
        if isinstance(args.get(theirs), int):
            keys[ours] = args[theirs]
    micro = args.get("micro_batch_size")
    if isinstance(micro, int):
        keys["max_micro_batch_size" if "train_batch_size" in keys else
             "train_micro_batch_size_per_gpu"] = micro  # fmt: skip
    return keys, _notes(args, style, low, step, optimizer.groups)


def _iterations(args: Mapping[str, Any], name: str) -> int:
    """A length of the schedule, which with --train-samples is counted in samples; 0 where no
    argument says it."""
    batch = args.get("global_batch_size")
    if args.get("train_samples") and type(batch) is int and batch > 0:
        return int(args.get(f"{name}_samples") or 0) // batch
    return int(args.get(f"{name}_iters") or 0)


def _notes(
    args: Mapping[str, Any], style: Any, low: float, step: int, groups: Sequence[Mapping[str, Any]]
) -> list[str]:
    notes = []
    batch, seen = args.get("global_batch_size"), args.get("consumed_train_samples")
    if args.get("rampup_batch_size") or args.get("step_batch_size_schedule"):
        notes.append(
            "Megatron's batch grew (rampup_batch_size, step_batch_size_schedule), ours is always "
            f"global_batch_size {batch}: the next samples and the learning rate are other ones"
        )
    elif seen and batch and seen != step * batch:
        notes.append(
            f"consumed_train_samples is {seen}, which is not step {step} of batches of {batch}: "
            "the next samples are other ones than Megatron's"
        )
    if not all(group.get("decoupled_weight_decay", True) for group in groups) or (
        args.get("decoupled_weight_decay") is False
    ):
        notes.append(
            "Megatron added weight decay to the gradients (decoupled_weight_decay is False), here "
            "it is taken from the weights (AdamW)"
        )
    if args.get("start_weight_decay") != args.get("end_weight_decay"):
        notes.append(
            "Megatron's weight decay moved from start_weight_decay to end_weight_decay, ours stays "
            "where it was"
        )
    if style not in STYLES:
        notes.append(
            f"lr_decay_style {style} has no equal here: set lr-decay-style and lr-decay-iters in "
            "the run's config.yml before you go on"
        )
    elif style == "linear" and low:
        notes.append(
            "Megatron's linear decay ends at min_lr; NeoX's formula, which is ours, stops there"
        )
    if args.get("lr_warmup_init"):
        notes.append("Megatron's warm-up began above 0 (lr_warmup_init), ours begins at 0")
    if args.get("data_path") or args.get("train_data_path"):
        notes.append(
            "set data-path (Megatron's list of weights and prefixes), split and the tokenizer: the "
            "samples are then Megatron's, from the step on where it was (order: megatron)"
        )
    return notes


def write_training(
    source: MegatronCheckpoint,
    optimizer: MegatronOptimizer,
    config: Config,
    writer: JaxneoxWriter,
    advance: Callable[[int], None],
) -> None:
    step = source.shards.step
    out = TrainingWriter(writer, config)
    out.counters(step=step, updates=optimizer.step, position=step)
    for ours, theirs in MOMENTS:
        moments = optimizer.kinds[theirs]
        for layer in (None, *range(source.model.num_layers)):
            values = {
                name: np.asarray(leaf, np.float32)
                for rule in rules(source.model, inside=layer is not None)
                for name, leaf in moments.leaves(rule, layer).items()
            }
            out.moments(ours, layer, values)
            advance(sum(value.nbytes for value in values.values()))


def training_facts(optimizer: MegatronOptimizer) -> dict[str, Any]:
    """For the certificate."""
    decays = {group.get("wd_mult", 1.0) for group in optimizer.groups}
    return {
        "optimizer": "Adam",
        "updates made": optimizer.step,
        "weight decay": "matrices and embeddings, not norms and biases"
        if 0.0 in decays
        else "all parameters there; matrices and embeddings here",
    }
