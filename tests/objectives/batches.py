"""Small batches of every objective, and the settings that they are trained with."""

import dataclasses

import numpy as np

from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.config.schema import ModelConfig
from tests.parallel.meshes import LENGTH, MODEL, VOCAB, Fields

ROWS = 8
REWARD_MODEL = dataclasses.replace(MODEL, head="reward")

OBJECTIVES: dict[str, ObjectiveConfig] = {
    "dpo": ObjectiveConfig("dpo", dpo_label_smoothing=0.1),
    "ipo": ObjectiveConfig("dpo", dpo_loss="ipo"),
    "hinge": ObjectiveConfig("dpo", dpo_loss="hinge"),
    "dpo without reference": ObjectiveConfig("dpo", dpo_reference_free=True),
    "dpo, computed before": ObjectiveConfig("dpo", reference="base"),
    "rm": ObjectiveConfig("rm"),
    "kto": ObjectiveConfig("kto", kto_desirable_weight=1.5, kto_undesirable_weight=0.5),
    "kto, computed before": ObjectiveConfig("kto", reference="base"),
    "kto as neox": ObjectiveConfig("kto", kto_undesirable_weight=0.5, as_neox=True),
    **{
        f"reinforce {form}": ObjectiveConfig("reinforce", kl_form=form)
        for form in ("abs", "mse", "kl", "full")
    },
    "reinforce without reference": ObjectiveConfig("reinforce", kl_weight=0.0),
    "reinforce as neox": ObjectiveConfig("reinforce", as_neox=True),
}


def model_of(settings: ObjectiveConfig) -> ModelConfig:
    return REWARD_MODEL if settings.kind == "rm" else MODEL


def batch(settings: ObjectiveConfig, seed: int, rows: int = ROWS) -> Fields:
    """Draw a batch: prompts, of which no label counts, answers, and what fills up the rows."""
    random = np.random.default_rng(seed)
    shape = (rows, 2) if settings.paired else (rows,)
    fields = texts(random, shape)
    if settings.kind == "rm":
        last = fields["labelled"].cumsum(-1) == fields["labelled"].sum(-1, keepdims=True)
        fields["labelled"] *= last & (np.diff(last, axis=-1, prepend=False) == 1)
    fields["weights"] = np.ones(rows, np.float32)
    if settings.reference is not None:
        fields["reference"] = -random.uniform(2, 6, (*shape, LENGTH)).astype("f4")
    if settings.kind == "kto":
        fields["reward"] = random.choice([-1, 1], rows).astype("f4")
    if settings.kind == "reinforce":
        fields["weights"] = fields.pop("labelled")
        fields["reward"], fields["raw_reward"] = random.standard_normal((2, rows)).astype("f4")
    if settings.kind == "kto" and settings.as_neox:
        fields["rewards"] = fields.pop("reward")[:, None] * (fields["tokens"][:, 1:] > 0)
    elif settings.kind == "kto":
        other = texts(random, shape)
        fields |= {f"kl_{name}": x for name, x in other.items()}
        if settings.reference is not None:
            fields["kl_reference"] = fields["reference"][::-1].copy()
    return fields


def texts(random: np.random.Generator, shape: tuple[int, ...]) -> Fields:
    """Draw texts, with the labels that count."""
    tokens = random.integers(1, VOCAB, (*shape, LENGTH + 1)).astype(np.int32)
    begins = random.integers(1, LENGTH // 2, (*shape, 1))
    ends = random.integers(LENGTH // 2 + 1, LENGTH + 1, (*shape, 1))
    at = np.arange(LENGTH + 1)
    tokens[at > ends] = 0
    counted = (at >= begins) & (at <= ends)
    return {"tokens": tokens, "labelled": counted[..., 1:].astype("f4")}
