"""How likely whole texts are, whatever devices hold them."""
# M micro-batches, B sequences, T length

import jax
import jax.numpy as jnp

from jaxneox.model import Model, Noise
from jaxneox.objectives.models import Models
from jaxneox.objectives.objective import Batch
from jaxneox.objectives.rounds import over_rounds

REFERENCE = "reference"
"""The field of the reference model's log-probabilities of the labels, float32 [A, B, *, T]."""


def log_probs(models: Models, tokens_MBT: jax.Array, noise: Noise | None = None) -> jax.Array:
    """Compute the log-probability of every token but the first.

    Args:
        models: the model to ask.
        tokens_MBT: int [M, B, T + 1].
        noise: the source of the dropout masks; None drops nothing.

    Returns:
        float32 [M, B, T], laid out as by `Model.laid`.
    """
    inputs_MBT, labels_MBT = tokens_MBT[..., :-1], tokens_MBT[..., 1:]
    return -models.model.label_losses(models.params, inputs_MBT, labels_MBT, noise)


def row_sums(model: Model, laid_MBT: jax.Array, weights_MBT: jax.Array | None = None) -> jax.Array:
    """Sum what is laid out as by `Model.laid`, by weights of a batch: [M, B], whole on a stage."""
    weighted = laid_MBT if weights_MBT is None else laid_MBT * model.laid(weights_MBT)
    return jax.reshard(jnp.sum(weighted, axis=-1), model.layout.activation(None, "batch"))


def reference_log_probs(models: Models, batch: Batch, tokens: str = "tokens") -> jax.Array:
    """Compute the reference model's log-probabilities of a batch, float32 [A, B, T].

    Args:
        models: among them the reference model.
        batch: fields [A, B, *].
        tokens: the name of the field with the texts, int [A, B, T + 1].
    """
    assert models.reference is not None
    return unlaid_log_probs(models.reference, batch[tokens])


def unlaid_log_probs(models: Models, tokens_ABT: jax.Array) -> jax.Array:
    """Compute the log-probabilities of a whole batch in the order of the texts, without gradients.

    Args:
        models: the model to ask.
        tokens_ABT: int [A, B, T + 1].

    Returns:
        float32 [A, B, T].
    """
    model = models.model

    def of_round(part: Batch) -> jax.Array:
        return model.unlaid(log_probs(models, part["tokens"]))

    return over_rounds(of_round, {"tokens": tokens_ABT}, model.layout)
