"""Pretraining's objective: the cross-entropy of the token that follows, by labels' weights."""
# M micro-batches, B sequences, T length

from collections.abc import Mapping
from dataclasses import dataclass

import jax

from jaxneox.model import Model, Noise, Params
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

    def sums(
        self, model: Model, params: Params, part: Batch, noise: Noise | None
    ) -> tuple[jax.Array, Sums]:
        """Sum the weighted losses of the labels; there are no other figures."""
        tokens_MBT = part["tokens"]
        inputs_MBT, labels_MBT = tokens_MBT[..., :-1], tokens_MBT[..., 1:]
        rows = inputs_MBT, labels_MBT, part[WEIGHTS]
        return model.loss_sum(params, *rows, noise, part.get(DOCUMENTS)), {}
