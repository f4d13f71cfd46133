"""KTO: texts that are rated one by one become likelier or less likely than before.

Source: Ethayarajh et al. 2024 (arXiv 2402.01306), equations 7 and 8: with rho the sum of log p -
log p_ref over a text's labels, its loss is `w (1 - sigmoid(beta r (rho - z)))`, r its reward (1 or
-1) and w the weight of rewards of this sign. The baseline z is the mean of rho over completions
that belong to other prompts, and not below 0: here over the global batch, so that it is the same on
every mesh.
"""
# A accumulation steps, M micro-batches, B sequences, T length

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.model import Noise
from jaxneox.objectives.groups import weighted_sums
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

KL_REFERENCE = "kl_reference"


@dataclass(frozen=True)
class Kto:
    """The mean loss of rated texts.

    Attributes:
        settings: the scale of rewards, and the weights of the two kinds.
        length: T, of the sequences.
    """

    settings: ObjectiveConfig
    length: int
    typed: bool = True
    shown: tuple[str, ...] = ("reward_acc",)

    @property
    def fields(self) -> Mapping[str, BatchField]:
        """The texts with their rewards, and mismatched texts for the baseline."""
        tokens = BatchField((self.length + 1,), "int32")
        positions = BatchField((self.length,), "float32")
        logs = (REFERENCE, KL_REFERENCE) if self.settings.reference else ()
        return {name: positions for name in logs} | {
            "tokens": tokens,
            "labelled": positions,
            "kl_tokens": tokens,
            "kl_labelled": positions,
            "reward": BatchField((), "float32"),
            WEIGHTS: BatchField((), "float32"),
        }

    @property
    def passes(self) -> int:
        """One of the model for the baseline; two of the reference model."""
        return 1 if self.settings.reference else 3

    def prepare(self, models: Models, batch: Batch) -> tuple[Batch, Sums]:
        """Compute the baseline, and the reference's log-probabilities if the data has none."""
        others = labelled(batch["kl_tokens"])
        if models.reference is not None:
            given = in_whole_batch(models.reference, labelled(batch["tokens"]))
            kl_given = in_whole_batch(models.reference, others, given)
            batch = batch | {REFERENCE: given, KL_REFERENCE: kl_given}
        logs = in_whole_batch(models, others, batch[KL_REFERENCE])
        rho = jnp.sum((logs - batch[KL_REFERENCE]) * batch["kl_labelled"], axis=-1)
        weights = batch[WEIGHTS]
        baseline = jnp.maximum(jnp.sum(weights * rho) / jnp.sum(weights), 0)
        cut = {name: x for name, x in batch.items() if not name.startswith("kl_")}
        return cut | {"baseline": jnp.zeros_like(rho) + baseline}, {"kl": baseline}

    def sums(self, models: Models, part: Batch, noise: Noise | None) -> tuple[jax.Array, Sums]:
        """Sum the losses of the texts, and what NeoX logs of them."""
        reward, settings = part["reward"], self.settings
        logs = log_probs(models, labelled(part["tokens"]), noise)
        policy = row_sums(models.model, logs, part["labelled"])
        reference = jnp.sum(part[REFERENCE] * part["labelled"], axis=-1)
        rho = policy - reference
        certain = beyond_rounding(rho, policy, reference)
        loss = kinds_weight(reward, settings) * (
            1 - jax.nn.sigmoid(settings.kto_beta * reward * (rho - part["baseline"]))
        )
        figures = {
            "policy_logp": policy,
            "ref_logp": reference,
            **by_kind({"policy_logp": policy, "ref_logp": reference}, reward),
            "policy_rewards": settings.kto_beta * reward * rho,
            "reward_acc": (reward * certain > 0).astype(jnp.float32),
        }
        return weighted_sums(part[WEIGHTS], loss, figures)


def kinds_weight(reward: jax.Array, settings: ObjectiveConfig) -> jax.Array:
    """Weigh desirable and undesirable texts; those with a reward of 0 are neither."""
    desirable = jnp.where(reward > 0, settings.kto_desirable_weight, 0.0)
    return jnp.where(reward < 0, settings.kto_undesirable_weight, desirable)


def by_kind(figures: Sums, reward: jax.Array) -> Sums:
    """Take figures of desirable texts alone and of undesirable texts alone, 0 for the others."""
    kinds = {"pos": reward > 0, "neg": reward < 0}
    return {
        f"{kind}_{name}": jnp.where(chosen, x, 0)
        for name, x in figures.items()
        for kind, chosen in kinds.items()
    }
