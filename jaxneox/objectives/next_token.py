"""Pretraining's objective: the cross-entropy of the token that follows, by labels' weights."""
# A accumulation steps, M micro-batches, B sequences, T length

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxneox.model import Noise
from jaxneox.objectives.groups import micro_means
from jaxneox.objectives.models import Models
from jaxneox.objectives.objective import DOCUMENTS, WEIGHTS, Batch, BatchField, Sums


@dataclass(frozen=True)
class NextToken:
    """The mean loss of the labels, each by its weight: 0 masks it.

    Attributes:
        length: T, of the sequences.
        separate: whether the data says which document each token is in.
    """

    length: int
    separate: bool = False
    typed: bool = True
    shown: tuple[str, ...] = ()

    @property
    def fields(self) -> Mapping[str, BatchField]:
        """`tokens` (inputs all but the last, labels all but the first) and the labels' weights."""
        documents = {DOCUMENTS: BatchField((self.length,), "int32")} if self.separate else {}
        return documents | {
            "tokens": BatchField((self.length + 1,), "int32"),
            WEIGHTS: BatchField((self.length,), "float32"),
        }

    def sums(self, models: Models, part: Batch, noise: Noise | None) -> tuple[jax.Array, Sums]:
        """Sum the weighted losses of the labels; other figures are those of the layers."""
        tokens_MBT = part["tokens"]
        inputs_MBT, labels_MBT = tokens_MBT[..., :-1], tokens_MBT[..., 1:]
        rows = inputs_MBT, labels_MBT, part[WEIGHTS]
        return models.model.loss_and_sums(models.params, *rows, noise, part.get(DOCUMENTS))


@dataclass(frozen=True)
class NeoxMasked(NextToken):
    """NeoX's loss of masked labels: the mean over micro-batches of the mean over their labels.

    Attributes:
        micro: rows of a micro-batch.
    """

    micro: int = 1
    passes: int = 0

    def prepare(self, models: Models, batch: Batch) -> tuple[Batch, Sums]:
        """Divide the weights by their sum in each micro-batch."""
        weights = batch[WEIGHTS]
        return batch | {WEIGHTS: in_micro_batches(weights, self.micro, models)}, {}


def in_micro_batches(weights_ABT: jax.Array, micro: int, models: Models) -> jax.Array:
    """Divide weights by the mean over their micro-batch of what a row has of them."""
    row = jnp.sum(weights_ABT, axis=-1)
    mean = micro_means(row, micro, models.model.layout)
    return weights_ABT / jnp.where(mean > 0, mean, 1)[..., None]
