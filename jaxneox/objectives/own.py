"""An objective from a function of one's own: a loss for every token or row of a batch."""
# M micro-batches, B sequences, T length, V vocabulary

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError, listed
from jaxneox.model import InTraining, Model, Noise, Params
from jaxneox.objectives.objective import DOCUMENTS, WEIGHTS, Batch, BatchField, Sums

OwnLoss = Callable[["TrainedFunctions", Params, Batch], Any]
"""(the model's functions, parameters, a batch's fields [B, *]) -> losses, or (losses, figures).

The losses are float [B, T] or [B], shaped as the batch's weights; figures are a dictionary of such
arrays.
"""

TAKEN = {"loss", "grad_norm", "lr", "skipped", "streak", "loss_scale", "param_norm", "step"}
TAKEN |= {"tokens", "seconds", "data_wait", "bubble", "spike", "first_sample", "last_sample"}
"""Names of figures that every run has."""


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
        """Whatever the data has."""
        return {}

    def sums(
        self, model: Model, params: Params, part: Batch, noise: Noise | None
    ) -> tuple[jax.Array, Sums]:
        """Sum the weighted losses and figures.

        Raises:
            UserError: the layers are in a pipeline, or the function's result has another form.
        """
        if model.layout.pipeline is not None:
            raise UserError(
                "a loss of one's own sees whole layers: it cannot be trained with pp above 1"
            )
        specs = {name: jax.typeof(w).sharding.spec for name, w in params.items()}

        def weighted(params: Params, batch: Batch, noise: Noise | None) -> tuple[jax.Array, Sums]:
            training = InTraining(noise, batch.get(DOCUMENTS))
            functions = TrainedFunctions(model, training, specs)
            losses, figures = self._called(functions, params, batch)
            weights = batch[WEIGHTS]
            return jnp.sum(losses * weights), {n: jnp.sum(f * weights) for n, f in figures.items()}

        batch = {name: field[0] for name, field in part.items()}
        return jax.sharding.auto_axes(weighted, out_sharding=P())(params, batch, noise)

    def _called(
        self, functions: TrainedFunctions, params: Params, batch: Batch
    ) -> tuple[jax.Array, Sums]:
        """Call the function, and check the form of what it returns."""
        result = self.function(functions, params, batch)
        losses, figures = result if isinstance(result, tuple) else (result, {})
        if taken := TAKEN & figures.keys():
            raise UserError(f"objective: every run has a figure {listed(sorted(taken))} of its own")
        shape = batch[WEIGHTS].shape
        for name, values in {"loss": losses, **figures}.items():
            found = jnp.shape(values)
            if found != shape:
                raise UserError(
                    f"objective: {name} has the shape {list(found)}, expected {list(shape)}, that "
                    "of the batch's weights: one number for every label, or for every row"
                )
        self.shown = tuple(figures)
        return losses.astype(jnp.float32), {n: f.astype(jnp.float32) for n, f in figures.items()}
