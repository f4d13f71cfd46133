"""KTO as GPT-NeoX HEAD computes it, for `neox_compat`.

It takes the two halves of a micro-batch: the baseline of one half is the mean of the other half's
max(rho, 0), its weight is the mean over the half of its texts' weights, and a text's reward is the
mean of its rewards over all positions of its row, those that fill it up too.

Source: gpt-neox `megatron/training.py`, lines 690 to 782, of ea7aefd8.
"""
# A accumulation steps, M micro-batches, B sequences, T length, H = 2 halves of h rows

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.errors import UserError
from jaxneox.model import Noise
from jaxneox.objectives.groups import in_groups, in_rows, micro_means, weighted_sums
from jaxneox.objectives.models import Models
from jaxneox.objectives.objective import WEIGHTS, Batch, BatchField, Sums
from jaxneox.objectives.texts import (
    REFERENCE,
    beyond_rounding,
    in_whole_batch,
    labelled,
    log_probs,
    row_sums,
)

NEARLY_0 = 0.001
"""Sums of rewards up to here are neither desirable nor undesirable."""


@dataclass(frozen=True)
class NeoxKto:
    """The mean loss of rated texts, by NeoX's halves of micro-batches.

    Attributes:
        settings: the scale of rewards, and the weights of the two kinds.
        length: T, of the sequences.
        micro: rows of a micro-batch.
    """

    settings: ObjectiveConfig
    length: int
    micro: int
    typed: bool = True
    shown: tuple[str, ...] = ("reward_acc",)

    def __post_init__(self) -> None:
        if self.micro % 2:
            raise UserError(
                f"train_impl: kto with neox_compat compares the halves of a micro-batch, which has "
                f"{self.micro} texts: make it even, or leave neox_compat out"
            )

    @property
    def fields(self) -> Mapping[str, BatchField]:
        """The texts, with their rewards position by position."""
        positions = BatchField((self.length,), "float32")
        logs = {REFERENCE: positions} if self.settings.reference else {}
        return logs | {
            "tokens": BatchField((self.length + 1,), "int32"),
            "labelled": positions,
            "rewards": positions,
            WEIGHTS: BatchField((), "float32"),
        }

    @property
    def passes(self) -> int:
        """One of each model."""
        return 1 if self.settings.reference else 2

    def prepare(self, models: Models, batch: Batch) -> tuple[Batch, Sums]:
        """Compute the halves' statistics, and the reference's log-probabilities if need be."""
        layout, texts = models.model.layout, labelled(batch["tokens"])
        if models.reference is not None:
            batch = batch | {REFERENCE: in_whole_batch(models.reference, texts)}
        logs = in_whole_batch(models, texts, batch[REFERENCE])
        apart = (logs - batch[REFERENCE]) * batch["labelled"]
        rho = jnp.sum(apart, axis=-1)
        half = self.micro // 2
        positive = in_groups(micro_means(jnp.maximum(rho, 0), half, layout), self.micro, layout)
        others = in_rows(jnp.roll(positive, half, axis=-1), layout)
        labels = jnp.sum(batch["labelled"], axis=-1)
        kl = micro_means(rho, self.micro, layout) / micro_means(labels, self.micro, layout)
        weight = micro_means(kinds_weight(batch["rewards"], self.settings), half, layout)
        return batch | {"baseline": others, "weight": weight}, {"kl": jnp.mean(kl)}

    def sums(self, models: Models, part: Batch, noise: Noise | None) -> tuple[jax.Array, Sums]:
        """Sum the losses of the texts, and what NeoX logs of them."""
        model, beta, rewards = models.model, self.settings.kto_beta, part["rewards"]
        counted, logs = part["labelled"], log_probs(models, labelled(part["tokens"]), noise)
        reference = part[REFERENCE]
        policy = row_sums(model, logs, counted)
        given = jnp.sum(reference * counted, axis=-1)
        reward = jnp.mean(rewards, axis=-1)
        loss = part["weight"] * (
            1 - jax.nn.sigmoid(beta * reward * (policy - given - part["baseline"]))
        )
        rated = rewards * counted
        ours, theirs = row_sums(model, logs, rated), jnp.sum(reference * rated, axis=-1)
        gained = beta * beyond_rounding(ours - theirs, ours, theirs)
        figures = {"policy_logp": policy, "ref_logp": given}
        for kind, chosen in (("pos", rewards > NEARLY_0), ("neg", rewards < -NEARLY_0)):
            of_kind = counted * chosen
            figures[f"{kind}_policy_logp"] = row_sums(model, logs, of_kind)
            figures[f"{kind}_ref_logp"] = jnp.sum(reference * of_kind, axis=-1)
        figures["policy_rewards"] = gained * self.micro  # NeoX's sum over the micro-batch
        figures["reward_acc"] = (gained > 0).astype(jnp.float32)
        return weighted_sums(part[WEIGHTS], loss, figures)


def kinds_weight(rewards_ABT: jax.Array, settings: ObjectiveConfig) -> jax.Array:
    """Weigh rows by the sign of their rewards' sum."""
    total = jnp.sum(rewards_ABT, axis=-1)
    desirable = jnp.where(total > NEARLY_0, settings.kto_desirable_weight, 0.0)
    return jnp.where(total < -NEARLY_0, settings.kto_undesirable_weight, desirable)
