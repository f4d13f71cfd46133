"""DPO: of two answers to a prompt, the chosen one becomes likelier than the rejected one.

The loss of a pair is a function of its margin, `(c+ - c-) - (r+ - r-)`, where c is the sum of the
log-probabilities of an answer's tokens and r the same under the reference model.

Sources: Rafailov et al. 2023 (arXiv 2305.18290), equation 7, for the sigmoid; Azar et al. 2023
(2310.12036), equation 17, for IPO; Zhao et al. 2023 (2305.10425) for the hinge; Mitchell 2023
(https://ericmitchell.ai/cdpo.pdf) for label smoothing. The figures have NeoX's names.
"""
# A accumulation steps, M micro-batches, B pairs, T length

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.model import Noise
from jaxneox.objectives.groups import weighted_sums
from jaxneox.objectives.models import Models
from jaxneox.objectives.objective import WEIGHTS, Batch, BatchField, Sums
from jaxneox.objectives.pairs import in_pairs, noise_of_pairs, side_by_side
from jaxneox.objectives.texts import (
    REFERENCE,
    beyond_rounding,
    in_whole_batch,
    labelled,
    log_probs,
    row_sums,
)


@dataclass(frozen=True)
class Dpo:
    """The mean loss of the pairs' margins.

    Attributes:
        settings: the form of the loss, and its scale.
        length: T, of the sequences.
    """

    settings: ObjectiveConfig
    length: int
    typed: bool = True
    shown: tuple[str, ...] = ("reward_acc",)

    @property
    def fields(self) -> Mapping[str, BatchField]:
        """The pairs, chosen first; which labels count; the reference's log-probabilities."""
        given = self.settings.has_reference and self.settings.reference
        logs = {REFERENCE: BatchField((2, self.length), "float32")} if given else {}
        return logs | {
            "tokens": BatchField((2, self.length + 1), "int32"),
            "labelled": BatchField((2, self.length), "float32"),
            WEIGHTS: BatchField((), "float32"),
        }

    @property
    def passes(self) -> int:
        """One of the reference model, unless the data has its log-probabilities."""
        return int(self.settings.has_reference and self.settings.reference is None)

    def prepare(self, models: Models, batch: Batch) -> tuple[Batch, Sums]:
        """Compute the reference model's log-probabilities, unless the data has them."""
        if models.reference is None:
            return batch, {}
        tokens = side_by_side(batch["tokens"], models.model.layout)
        logs = in_whole_batch(models.reference, labelled(tokens))
        return batch | {REFERENCE: in_pairs(logs)}, {}

    def sums(self, models: Models, part: Batch, noise: Noise | None) -> tuple[jax.Array, Sums]:
        """Sum the losses of the pairs, and what NeoX logs of them."""
        model, layout = models.model, models.model.layout
        tokens, counted = (side_by_side(part[name], layout) for name in ("tokens", "labelled"))
        logs = log_probs(models, labelled(tokens), noise_of_pairs(noise, layout))
        policy = in_pairs(row_sums(model, logs, counted))
        chosen, rejected = policy[..., 0], policy[..., 1]
        margin, compared = chosen - rejected, [chosen, rejected]
        figures = {"chosen_pos": chosen, "chosen_neg": rejected}
        if REFERENCE in part:
            reference = jnp.sum(part[REFERENCE] * part["labelled"], axis=-1)
            margin -= reference[..., 0] - reference[..., 1]
            compared += [reference[..., 0], reference[..., 1]]
            rewards = self.settings.dpo_beta * (policy - reference)
            figures |= {
                "ref_pos": reference[..., 0],
                "ref_neg": reference[..., 1],
                "chosen_rewards": rewards[..., 0],
                "rejected_rewards": rewards[..., 1],
                "margins": rewards[..., 0] - rewards[..., 1],
            }
        figures["reward_acc"] = (beyond_rounding(margin, *compared) > 0).astype(jnp.float32)
        return weighted_sums(part[WEIGHTS], pair_loss(margin, self.settings), figures)


def pair_loss(margin: jax.Array, settings: ObjectiveConfig) -> jax.Array:
    """Compute the loss of each margin."""
    beta, smoothing = settings.dpo_beta, settings.dpo_label_smoothing
    if settings.dpo_loss == "ipo":
        return jnp.square(margin - 1 / (2 * beta))
    if settings.dpo_loss == "hinge":
        return jax.nn.relu(1 - beta * margin)
    loss = -jax.nn.log_sigmoid(beta * margin)
    if smoothing:
        loss = (1 - smoothing) * loss - smoothing * jax.nn.log_sigmoid(-beta * margin)
    return loss
