"""The protocol of objectives: all that the step and the evaluation know of one."""
# A accumulation steps, M micro-batches (all that pass a pipeline together, else 1), B sequences

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import jax

from jaxneox.model import Noise
from jaxneox.objectives.models import Models

WEIGHTS = "weights"
"""The field that every batch has: float32, how much each of its groups counts.

A group is what the objective has one loss for: a token ([A, B, T]), a row or a pair ([A, B]).
"""

DOCUMENTS = "documents"
"""A field that some batches have: int32 [A, B, T], the document of each token in its row."""

GIVEN_WEIGHTS = "given_weights"
"""In a training step, beside WEIGHTS divided by their sum: the weights as the data has them.

Only objectives without declared fields have it.
"""

Batch = dict[str, jax.Array]
"""The fields of a global batch by name, each [A, B, *]: rows of accumulation steps."""

Sums = dict[str, jax.Array]
"""Figures by name, float32 []: each the sum of weight times figure over the groups of a part."""


class BatchField(NamedTuple):
    """A field of a batch: the shape that follows the rows, and the dtype."""

    shape: tuple[int, ...]
    dtype: str


@runtime_checkable
class Objective(Protocol):
    """A loss as sums over the groups of a batch.

    A mean over the batch is the sum over its groups, divided by the sum of their weights. So the
    weights of a batch are divided by their sum before it is cut, and the sums of its parts, in
    whatever way devices and accumulation steps divide it, add up to the mean. What cannot be
    written as such a sum, since a group's loss would depend on which others are in its part, is no
    objective: it would be another function on another mesh.
    """

    @property
    def fields(self) -> Mapping[str, BatchField]:
        """The fields of its batches, WEIGHTS among them."""

    @property
    def typed(self) -> bool:
        """Whether `sums` computes with explicit shardings all the way.

        Gradients may then stay partial sums, under a type of their own, from one accumulation step
        to the next.
        """

    @property
    def shown(self) -> tuple[str, ...]:
        """The figures that are shown beside the loss while a run trains."""

    def sums(self, models: Models, part: Batch, noise: Noise | None) -> tuple[jax.Array, Sums]:
        """Sum weight times loss, and weight times each figure, over the groups of a part.

        Args:
            models: the trained model, and its reference model.
            part: fields [M, B, *].
            noise: the source of the dropout masks; None drops nothing.

        Returns:
            The sum of the loss, float32 [], and the sums of the figures.
        """


@runtime_checkable
class PreparedObjective(Objective, Protocol):
    """An objective that computes something of a whole batch, before it is cut.

    So a loss may depend on a statistic of the batch, which is then the same on every mesh.
    """

    @property
    def passes(self) -> int:
        """How many forward passes over the batch's texts that takes, of either model."""

    def prepare(self, models: Models, batch: Batch) -> tuple[Batch, Sums]:
        """Complete a batch, without gradients.

        Args:
            models: the trained model, and its reference model.
            batch: fields [A, B, *].

        Returns:
            The batch that is cut into parts, and figures of it as a whole.
        """
