"""An objective from a function of one's own: a loss for every token or row of a batch."""
# M micro-batches, B sequences, T length, V vocabulary

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError, cut
from jaxneox.model import InTraining, Model, Noise, Params
from jaxneox.objectives.models import Models
from jaxneox.objectives.objective import (
    DOCUMENTS,
    GIVEN_WEIGHTS,
    WEIGHTS,
    Batch,
    BatchField,
    Sums,
)

OwnLoss = Callable[["TrainedFunctions", Params, Batch], Any]
"""(the model's functions, parameters, a batch's fields [B, *]) -> losses, or (losses, figures).

The losses are float [B, T] or [B], shaped as the batch's weights; figures are a dictionary of such
arrays.
"""

TAKEN = {"loss", "grad_norm", "lr", "skipped", "streak", "loss_scale", "param_norm", "step"}
TAKEN |= {"tokens", "seconds", "data_wait", "bubble", "spike", "first_sample", "last_sample"}
"""Names of figures that every run has."""

TAKEN_PREFIXES = ("valid_", "start_", "test_", "eval/")
"""Beginnings of the names of evaluations' figures."""


class TrainedFunctions:
    """The functions of a model while it is trained: with its dropout and its documents.

    They take and return what jnp's functions take, on one device and on a mesh.

    Attributes:
        config: the architecture.
    """

    def __init__(self, model: Model, training: InTraining, specs: Mapping[str, P]):
        self.config: ModelConfig = model.cfg
        self._model, self._training, self._specs = model, training, dict(specs)

    def logits(self, params: Params, tokens_BT: jax.Array) -> jax.Array:
        """Compute the logits of tokens, int [B, T] -> float32 [B, T, V]."""
        return self._plain(self._model.logits, params, tokens_BT)

    def token_losses(self, params: Params, tokens_BT: jax.Array) -> jax.Array:
        """Compute the cross-entropy of every token but the first, [B, T + 1] -> float32 [B, T]."""
        return self._plain(self._model.token_losses, params, tokens_BT)

    def _plain(
        self, function: Callable[..., jax.Array], params: Params, tokens_BT: Any
    ) -> jax.Array:
        activation = self._model.layout.activation
        noise, documents = self._training
        rows: Any = activation("batch", None)
        training = InTraining(
            noise and Noise(P(), activation(None, "batch")),  # type: ignore[arg-type]
            None if documents is None else rows,
        )
        typed = jax.sharding.explicit_axes(function, in_sharding=(self._specs, rows, training))
        return typed({name: params[name] for name in self._specs}, tokens_BT, self._training)


@dataclass(eq=False)
class Own:
    """The mean of a function's losses, each by its weight in the batch.

    Attributes:
        function: a loss for every token or row.
        shown: the figures that are shown beside the loss: all that the function returns, which is
            known once it is traced.
    """

    function: OwnLoss
    shown: tuple[str, ...] = ()
    typed: bool = False

    @property
    def fields(self) -> Mapping[str, BatchField]:
        """None are declared: the data may have any."""
        return {}

    def sums(self, models: Models, part: Batch, noise: Noise | None) -> tuple[jax.Array, Sums]:
        """Sum the weighted losses and figures.

        Raises:
            UserError: the layers are in a pipeline, or the function's result has another form.
        """
        model, params, _ = models
        if model.layout.pipeline is not None:
            raise UserError(
                "a loss of one's own sees whole layers: it cannot be trained with pp above 1"
            )
        specs = {name: jax.typeof(w).sharding.spec for name, w in params.items()}

        def weighted(params: Params, batch: Batch, noise: Noise | None) -> tuple[jax.Array, Sums]:
            training = InTraining(noise, batch.get(DOCUMENTS))
            functions = TrainedFunctions(model, training, specs)
            weights = batch[WEIGHTS]
            given = batch.pop(GIVEN_WEIGHTS, weights)
            losses, figures = self._called(functions, params, batch | {WEIGHTS: given})
            return jnp.sum(losses * weights), {n: jnp.sum(f * weights) for n, f in figures.items()}

        batch = {name: field[0] for name, field in part.items()}
        return jax.sharding.auto_axes(weighted, out_sharding=P())(params, batch, noise)

    def _called(
        self, functions: TrainedFunctions, params: Params, batch: Batch
    ) -> tuple[jax.Array, Sums]:
        """Call the function, and check the form of what it returns."""
        shape = batch[WEIGHTS].shape
        losses, figures = _parts(self.function(functions, params, batch))
        self.shown = tuple(figures)
        found = {name: _checked(name, x, shape) for name, x in {"loss": losses, **figures}.items()}
        return found.pop("loss"), found


def _parts(result: Any) -> tuple[Any, Mapping[str, Any]]:
    """Take apart what the function returns: losses, or losses and figures."""
    if not isinstance(result, tuple):
        return result, {}
    if len(result) != 2 or not isinstance(result[1], Mapping):
        kinds = ", ".join(type(part).__name__ for part in result)
        raise UserError(
            f"objective: returned ({kinds}), expected losses, or losses and a dictionary of figures"
        )
    for name in result[1]:
        if not isinstance(name, str):
            raise UserError(f"objective: {cut(repr(name))} is no figure's name, which is a text")
        if name in TAKEN or name.startswith(TAKEN_PREFIXES):
            raise UserError(f"objective: every run has a figure {cut(name)} of its own; rename it")
    return result


def _checked(name: str, values: Any, shape: tuple[int, ...]) -> jax.Array:
    """Return losses or a figure as float32, one number for each of the weights."""
    found = list(values.shape) if isinstance(values, jax.Array | np.ndarray) else None
    if found != list(shape):
        what = type(values).__name__ if found is None else f"of the shape {found}"
        raise UserError(
            f"objective: {name} is {what}, expected an array of the shape {list(shape)}, that of "
            "the batch's weights: one number for every label, or for every row"
        )
    return jnp.asarray(values, jnp.float32)
