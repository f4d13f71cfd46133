"""REINFORCE: completions become likelier by their rewards, and stay close to the reference model.

The loss of a label is `-log p * reward + kl_div_beta * kl`, and the batch's is the mean over its
labels. kl is, by `kl_impl`: `full`, the divergence KL(model || reference); `mse`, half the square
of log p - log p_ref; `abs`, its absolute value; `kl`, the difference itself. A reward has its
baseline subtracted beforehand.

Sources: Williams 1992; Ahmadian et al. 2024 (arXiv 2402.14740) for leaving one out; gpt-neox
`megatron/training.py`, lines 784 to 860, of ea7aefd8 for the forms of kl and the figures.
"""
# A accumulation steps, M micro-batches, B sequences, T length

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.model import Noise
from jaxneox.objectives.groups import in_groups, micro_means
from jaxneox.objectives.models import Models
from jaxneox.objectives.next_token import in_micro_batches
from jaxneox.objectives.objective import WEIGHTS, Batch, BatchField, Sums
from jaxneox.objectives.texts import (
    REFERENCE,
    Labelled,
    beyond_rounding,
    in_whole_batch,
    labelled,
    log_probs,
    row_sums,
)


@dataclass(frozen=True)
class Reinforce:
    """The mean loss of the labels of rewarded completions.

    Attributes:
        settings: the form and the weight of the distance from the reference model.
        length: T, of the sequences.
        micro: rows of NeoX's micro-batches, over which it takes means; None takes the mean over
            the global batch.
    """

    settings: ObjectiveConfig
    length: int
    micro: int | None = None
    typed: bool = True
    shown: tuple[str, ...] = ("reward",)

    @property
    def fields(self) -> Mapping[str, BatchField]:
        """The texts, which labels count, the rewards with and without their baseline."""
        positions = BatchField((self.length,), "float32")
        given = self.settings.has_reference and self.settings.reference
        logs = {REFERENCE: positions} if given else {}
        return logs | {
            "tokens": BatchField((self.length + 1,), "int32"),
            WEIGHTS: positions,
            "reward": BatchField((), "float32"),
            "raw_reward": BatchField((), "float32"),
        }

    @property
    def passes(self) -> int:
        """One of the reference model, unless the data has its log-probabilities."""
        return int(self.settings.has_reference and self.settings.reference is None)

    def prepare(self, models: Models, batch: Batch) -> tuple[Batch, Sums]:
        """Compute the reference's log-probabilities if the data has none, and rewards' statistics.

        NeoX divides by the rows of a micro-batch once more than its mean needs.
        """
        layout, raw = models.model.layout, batch["raw_reward"]
        group = self.micro or raw.size
        if models.reference is not None:
            logs = in_whole_batch(models.reference, self.texts(batch))
            batch = batch | {REFERENCE: logs}
        if self.micro:
            batch = batch | {WEIGHTS: in_micro_batches(batch[WEIGHTS], self.micro, models)}
            spread = jnp.std(in_groups(raw, self.micro, layout), axis=-1, ddof=1)
        else:
            spread = jnp.std(raw, ddof=1 if group > 1 else 0)
        return batch, {"reward": jnp.mean(raw), "reward_std": jnp.mean(spread)}

    def sums(self, models: Models, part: Batch, noise: Noise | None) -> tuple[jax.Array, Sums]:
        """Sum the losses of the labels, and what NeoX logs of them."""
        model, settings, weights = models.model, self.settings, part[WEIGHTS]
        logs, divergences = self.of_the_model(models, self.texts(part), noise)
        divisor = self.micro or 1
        gained = weights * (part["reward"] / divisor)[..., None]
        total = -jnp.sum(row_sums(model, logs, gained))
        means = {"logp": logs}
        if REFERENCE in part:
            reference = model.laid(part[REFERENCE])
            kl = self.distance(logs, reference) if divergences is None else divergences
            share = weights * (settings.kl_weight / divisor)
            total += jnp.sum(row_sums(model, kl, share))
            means |= {"ref_logp": reference, "kl": kl}
        shares = self.shares(weights, models)
        return total, {name: jnp.sum(row_sums(model, x, shares)) for name, x in means.items()}

    def of_the_model(
        self, models: Models, texts: Labelled, noise: Noise | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Compute the labels' log-probabilities, and the divergences where they are asked for."""
        reference = models.reference
        if reference is None or self.settings.kl_form != "full":
            return log_probs(models, texts, noise), None
        losses, divergences = models.model.losses_and_divergences(
            models.params, reference.model, reference.params, *texts, noise
        )
        return -losses, divergences

    def texts(self, batch: Batch) -> Labelled:
        """Cut texts into inputs and labels; NeoX takes token 0 where a label does not count."""
        texts = labelled(batch["tokens"])
        if not self.micro:
            return texts
        return texts._replace(labels=jnp.where(batch[WEIGHTS] > 0, texts.labels, 0))

    def distance(self, logs: jax.Array, reference: jax.Array) -> jax.Array:
        """Measure log p - log p_ref, position by position."""
        apart = logs - reference
        if self.settings.kl_form == "mse":
            return 0.5 * jnp.square(apart)
        if self.settings.kl_form == "abs":
            return jnp.abs(beyond_rounding(apart, logs, reference))
        return apart

    def shares(self, weights_MBT: jax.Array, models: Models) -> jax.Array:
        """Weigh positions in figures: labels alone, or all positions alike as NeoX does."""
        if not self.micro:
            return weights_MBT
        mean = micro_means(jnp.sum(weights_MBT, axis=-1), self.micro, models.model.layout)
        return jnp.broadcast_to(mean[..., None] / self.length, weights_MBT.shape)
