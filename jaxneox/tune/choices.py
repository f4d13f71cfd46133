"""Length, batch, rate and steps of a run by stated rules, as the keys of its YAML."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxneox.config import Settings
from jaxneox.config.fates import Used
from jaxneox.config.keys import KEYS
from jaxneox.errors import UserError
from jaxneox.tune.kinds import Method

SHORTEST = 64
"""Lengths are multiples of it."""

STEPS_IN_AN_EPOCH = 25
"""Batches are so small that an epoch has as many, but not below one row for each device."""

LARGEST_BATCH = 32  # rows
EVALUATIONS = 8  # in the whole run


class Defaults(NamedTuple):
    """What is chosen by how a model is trained.

    Attributes:
        lora_rate: the learning rate with LoRA.
        rate: that of the whole model.
        epochs: passes over the data.
        warmup: the share of the steps in which the rate grows.
        keys: of the YAML.
    """

    lora_rate: float
    rate: float
    epochs: float
    warmup: float
    keys: Mapping[str, Any]

    @property
    def packed(self) -> bool:
        """Whether a row holds several documents."""
        return self.keys["pack_impl"] != "unpacked"


ALONE = {"pack_impl": "unpacked", "allow_chopped": False}
DEFAULTS: Mapping[Method, Defaults] = {
    "normal": Defaults(
        2e-4, 2e-5, 3.0, 0.03, {"pack_impl": "pack_until_overflow", "separate_documents": True}
    ),
    "dpo": Defaults(
        5e-6, 5e-7, 1.0, 0.1,
        {"train_impl": "dpo", "dataset_impl": "pairwise", **ALONE, "dpo_beta": 0.1},
    ),
    "kto": Defaults(5e-6, 5e-7, 1.0, 0.1, {"train_impl": "kto", **ALONE, "kto_beta": 0.1}),
}  # fmt: skip
"""Rates of normal training: Hu et al. 2021, Touvron et al. 2023. Rates, epochs and warm-up of DPO:
Zephyr's recipes in huggingface/alignment-handbook (recipes/zephyr-7b-beta/dpo), config_qlora.yaml
and config_full.yaml, whose beta is 0.01; the beta here is NeoX's default. KTO takes the same, as
TRL's examples/scripts/kto.py advises a configuration similar to that of DPO; it has 1 epoch, and a
warm-up of 10 %."""


ELSEWHERE = ("model.lora", "tokenizer.vocab_file", "tokenizer.merge_file")
"""Fields that are not taken over: LoRA is asked for anew, and the tokenizer's files are copied."""


class Asked(NamedTuple):
    """What the user says; None for what is to be chosen."""

    lora: int | None
    length: int | None
    batch: int | None
    rate: float | None
    epochs: float | None


def model_keys(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Take the keys of a run that describe its model and its tokenizer.

    A model with muP may be NeoX's, which `neox_compat` says.
    """
    kept = {name: value for name, value in saved.items() if _describes(name)}
    if saved.get("neox_compat") and any("mup" in name for name in kept):
        kept["neox_compat"] = True
    return kept


def _describes(name: str) -> bool:
    key = KEYS.get(name)
    fate = None if key is None else key.fate
    field = fate.to if isinstance(fate, Used) else ""
    return field.startswith(("model.", "tokenizer.")) and not field.startswith(ELSEWHERE)


def length_for(sizes: Sequence[int], most: int, asked: int | None) -> int:
    """Choose the length of rows: the longest document's, up to what the model has.

    Args:
        sizes: tokens of each document.
        most: positions of the model.
        asked: by the user.

    Raises:
        UserError: more is asked for than the model has.
    """
    if asked is not None:
        if asked > most:
            raise UserError(f"--length {asked}: the model has {most} positions")
        return asked
    return min(most, SHORTEST * math.ceil(max(sizes) / SHORTEST))


def rows_of(sizes: Sequence[int], length: int) -> int:
    """Count the rows of an epoch, whose documents are whole as far as they fit."""
    rows, filled = 1, 0
    for size in sizes:
        if filled and filled + size > length:
            rows, filled = rows + 1, 0
        filled += min(size, length)
    return rows


def rows_that_fit(sizes: Sequence[int], length: int, split: str) -> int:
    """Count the rows of an epoch that each hold one document, which is not cut.

    Raises:
        UserError: there are none.
    """
    rows = sum(size <= length + 1 for size in sizes)
    if not rows:
        raise UserError(
            f"{split}: all {len(sizes):,} are longer than a row of {length} tokens; shorten them, "
            "give --length if the model has more positions, or hold out more with --hold-out"
        )
    return rows


def choose(
    saved: Mapping[str, Any],
    train: Sequence[int],
    valid: Sequence[int],
    replicas: int,
    asked: Asked,
    method: Method = "normal",
) -> dict[str, Any]:
    """Choose the keys of a run.

    Args:
        saved: those of the model's run.
        train: tokens of each document that is trained on.
        valid: of each that is held out.
        replicas: of the model, among which the rows of a batch are divided.
        asked: what the user says.
        method: how the model is trained.

    Raises:
        UserError: what the user says cannot be, or no document fits.
    """
    defaults = DEFAULTS[method]
    model = model_keys(saved)
    settings = Settings(dict(model))
    length = length_for(train, settings["max_position_embeddings"], asked.length)
    rows, held_out = (
        rows_of(sizes, length) if defaults.packed else rows_that_fit(sizes, length, what)
        for sizes, what in ((train, "what to train on"), (valid, "what is held out"))
    )
    few = max(1, min(LARGEST_BATCH, rows // STEPS_IN_AN_EPOCH))
    batch = asked.batch or max(1, 2 ** int(math.log2(few)) // replicas) * replicas
    steps = max(2, math.ceil((asked.epochs or defaults.epochs) * rows / batch))
    rate = asked.rate or (defaults.lora_rate if asked.lora else defaults.rate)
    every = max(1, steps // EVALUATIONS)
    return model | {
        "seq_length": length,
        "context_length": max(length, saved.get("context_length") or settings["seq_length"] or 0),
        "train_batch_size": batch,
        "train_iters": steps,
        "lr_decay_iters": steps,
        "lr_decay_style": "cosine",
        "warmup": defaults.warmup,
        "min_lr": rate / 10,
        "optimizer": {"type": "Adam", "params": {"lr": rate, "betas": [0.9, 0.999]}},
        "weight_decay": 0.0 if asked.lora else 0.01,
        "gradient_clipping": 1.0,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        **defaults.keys,
        "eval_interval": every,
        "eval_iters": math.ceil(held_out / batch),
        "eval_fixed": True,
        "do_test": False,
        "checkpoint_factor": every,
        "log_interval": max(1, every // 4),
        **({"lora": {"rank": asked.lora}} if asked.lora else {}),
    }
