"""How likely whole texts are, whatever devices hold them."""
# M micro-batches, B sequences, T length

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxneox.model import Model, Noise
from jaxneox.objectives.models import Models
from jaxneox.objectives.objective import Batch
from jaxneox.objectives.rounds import over_rounds

REFERENCE = "reference"
"""The field of the reference model's log-probabilities of the labels, float32 [A, B, *, T]."""


ROUNDING = 2.0**-20
"""What float32 leaves of two log-probabilities that should be equal, as a share of both."""


class Labelled(NamedTuple):
    """Texts as inputs and labels, each int [M, B, T]."""

    inputs: jax.Array
    labels: jax.Array


def labelled(tokens_MBT: jax.Array) -> Labelled:
    """Cut texts [M, B, T + 1]: every token but the first is a label."""
    return Labelled(tokens_MBT[..., :-1], tokens_MBT[..., 1:])


def log_probs(models: Models, texts: Labelled, noise: Noise | None = None) -> jax.Array:
    """Compute the log-probability of every label.

    Args:
        models: the model to ask.
        texts: of a part.
        noise: the source of the dropout masks; None drops nothing.

    Returns:
        float32 [M, B, T], laid out as by `Model.laid`.
    """
    return -models.model.label_losses(models.params, *texts, noise)


def row_sums(model: Model, laid_MBT: jax.Array, weights_MBT: jax.Array | None = None) -> jax.Array:
    """Sum what is laid out as by `Model.laid`, by weights of a batch: [M, B], whole on a stage."""
    weighted = laid_MBT if weights_MBT is None else laid_MBT * model.laid(weights_MBT)
    return jax.reshard(jnp.sum(weighted, axis=-1), model.layout.activation(None, "batch"))


def in_whole_batch(models: Models, texts: Labelled, after: jax.Array | None = None) -> jax.Array:
    """Compute the log-probabilities of a batch's labels, without gradients.

    Args:
        models: the model to ask.
        texts: each [A, B, T].
        after: what has to be there first. Passes at the same time would need twice the memory, and
            on CPUs the collectives of one may wait for those of the other for ever.

    Returns:
        float32 [A, B, T], in the order of the texts.
    """
    model = models.model
    if after is not None:
        texts, _ = jax.lax.optimization_barrier((texts, after))

    def of_round(part: Batch) -> jax.Array:
        return model.unlaid(log_probs(models, Labelled(**part)))

    return over_rounds(of_round, texts._asdict(), model.layout)


def beyond_rounding(apart: jax.Array, *of: jax.Array) -> jax.Array:
    """Return a difference, or 0 where it is no more than what rounding leaves of equal numbers.

    Args:
        apart: a sum and difference of log-probabilities.
        of: these log-probabilities.
    """
    return jnp.where(jnp.abs(apart) > ROUNDING * sum(map(jnp.abs, of)), apart, 0)
