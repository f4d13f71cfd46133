"""A reward model's loss: the chosen text of a pair has the higher value.

Source: Ouyang et al. 2022 (arXiv 2203.02155), equation 1; GPT-NeoX adds `z_loss` times the squares
of the values. The figures have NeoX's names.
"""
# M micro-batches, B pairs, T length

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxneox.model import Noise
from jaxneox.objectives.groups import weighted_sums
from jaxneox.objectives.models import Models
from jaxneox.objectives.objective import WEIGHTS, Batch, BatchField, Sums
from jaxneox.objectives.pairs import in_pairs, noise_of_pairs, side_by_side
from jaxneox.objectives.texts import row_sums


@dataclass(frozen=True)
class RewardPairs:
    """The mean over pairs of -log sigmoid(v+ - v-) + z_loss (v+^2 + v-^2).

    The value of a text is the one where its label counts, of which it has one; of several it is
    their sum.

    Attributes:
        length: T, of the sequences.
        z_loss: draws the values to 0.
    """

    length: int
    z_loss: float
    typed: bool = True
    shown: tuple[str, ...] = ("accuracy",)

    @property
    def fields(self) -> Mapping[str, BatchField]:
        """The pairs, chosen first, and where their values are read."""
        return {
            "tokens": BatchField((2, self.length + 1), "int32"),
            "labelled": BatchField((2, self.length), "float32"),
            WEIGHTS: BatchField((), "float32"),
        }

    def sums(self, models: Models, part: Batch, noise: Noise | None) -> tuple[jax.Array, Sums]:
        """Sum the losses of the pairs, and what NeoX logs of them."""
        model, layout = models.model, models.model.layout
        tokens, counted = (side_by_side(part[name], layout) for name in ("tokens", "labelled"))
        rows = noise_of_pairs(noise, layout)
        values_MBT = model.values(models.params, tokens[..., :-1], rows)
        values = in_pairs(row_sums(model, values_MBT, counted))
        chosen, rejected = values[..., 0], values[..., 1]
        loss = -jax.nn.log_sigmoid(chosen - rejected)
        if self.z_loss:
            loss += self.z_loss * (jnp.square(chosen) + jnp.square(rejected))
        figures = {
            "pos_values": chosen,
            "neg_values": rejected,
            "margin": chosen - rejected,
            "accuracy": (chosen > rejected).astype(jnp.float32),
        }
        return weighted_sums(part[WEIGHTS], loss, figures)
