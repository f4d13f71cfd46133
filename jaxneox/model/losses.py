"""Losses of a whole model's tokens, for training: summed up, or for each label."""
# M micro-batches (all that pass a pipeline together, else 1), B batch, T length, D hidden,
# V padded vocabulary

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxneox.errors import UserError
from jaxneox.model.context import Sums
from jaxneox.model.divergence import divergences
from jaxneox.model.dropout import Noise
from jaxneox.model.hidden import HiddenStates
from jaxneox.model.label_losses import label_losses
from jaxneox.model.loss import LossSettings, chunk_length, loss_sum
from jaxneox.model.parameters import NeoX, Params
from jaxneox.model.unembedding import Unembedding
from jaxneox.model.vocabulary import hide_added

NO_LOGITS = (
    "the checkpoint is a reward model, which has no logits; it scores texts: `jaxneox evaluate "
    "--rewards`"
)


@dataclass(frozen=True)
class Losses(HiddenStates):
    """The losses of one configuration, laid out for one mesh. It holds no arrays.

    Attributes:
        z_loss: the weight of `log(Z)^2` in the loss.
        loss_fp32: whether the loss is computed in float32, else in `compute`.
    """

    z_loss: float = 0.0
    loss_fp32: bool = True

    def loss_sum(
        self,
        params: Params,
        tokens_MBT: jax.Array,
        labels_MBT: jax.Array,
        weights_MBT: jax.Array,
        noise: Noise | None = None,
        documents_MBT: jax.Array | None = None,
    ) -> jax.Array:
        """Sum the weighted losses of the tokens; the caller divides by what it counts.

        Args:
            params: parameters by dotted name.
            tokens_MBT: int [M, B, T].
            labels_MBT: int [M, B, T], the token that follows each.
            weights_MBT: float32 [M, B, T].
            noise: the source of the dropout masks; None drops nothing.
            documents_MBT: int [M, B, T], each token's document, if the data says it.

        Returns:
            float32 [], in nats.
        """
        arrays = params, tokens_MBT, labels_MBT, weights_MBT, noise, documents_MBT
        return self.loss_and_sums(*arrays)[0]

    def loss_and_sums(
        self,
        params: Params,
        tokens_MBT: jax.Array,
        labels_MBT: jax.Array,
        weights_MBT: jax.Array,
        noise: Noise | None = None,
        documents_MBT: jax.Array | None = None,
    ) -> tuple[jax.Array, Sums]:
        """Compute `loss_sum`, in training with the losses that layers have of their own.

        Noise makes it training. A row's share of those losses is the sum of its tokens' weights.

        Returns:
            The sum, and what the layers add up besides, as `Stream.sums`.
        """
        settings = self._loss_settings(tokens_MBT, self.z_loss)
        model = self._outer_modules(params)
        positions = self._document_positions(tokens_MBT, documents_MBT)
        row_weights_MB = None
        if self.cfg.experts is not None and noise is not None:
            row_weights_MB = jnp.sum(weights_MBT, axis=-1)
        stream = self._hidden(
            model, params, tokens_MBT, positions, noise, row_weights_MB=row_weights_MB
        )
        labels_MBT, weights_MBT = self.laid(labels_MBT), self.laid(weights_MBT)
        unembedding = self._unembedding(model)
        loss = loss_sum(stream.x_MBTD, unembedding, labels_MBT, weights_MBT, settings)
        sums = dict(stream.sums)
        if (of_layers := sums.pop("experts_loss", None)) is not None:
            loss = loss + jnp.sum(of_layers)
        return loss, sums

    def label_losses(
        self,
        params: Params,
        tokens_MBT: jax.Array,
        labels_MBT: jax.Array,
        noise: Noise | None = None,
        documents_MBT: jax.Array | None = None,
    ) -> jax.Array:
        """Compute the loss of each label, for losses that are no sum over tokens.

        Args:
            params: parameters by dotted name.
            tokens_MBT: int [M, B, T].
            labels_MBT: int [M, B, T], the token that follows each.
            noise: the source of the dropout masks; None drops nothing.
            documents_MBT: int [M, B, T], each token's document, if the data says it.

        Returns:
            The cross-entropy, float32 [M, B, T] in nats, laid out as by `laid`.
        """
        settings = self._loss_settings(tokens_MBT, 0.0)
        model = self._outer_modules(params)
        positions = self._document_positions(tokens_MBT, documents_MBT)
        x_MBTD = self._hidden(model, params, tokens_MBT, positions, noise).x_MBTD
        return label_losses(x_MBTD, self._unembedding(model), self.laid(labels_MBT), settings)

    def losses_and_divergences(
        self,
        params: Params,
        other: "Losses",
        other_params: Params,
        tokens_MBT: jax.Array,
        labels_MBT: jax.Array,
        noise: Noise | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Compute `label_losses`, and how far the distributions are from another model's.

        Args:
            params: parameters by dotted name.
            other: a model of the same vocabulary and layout, through which no gradient goes.
            other_params: its parameters.
            tokens_MBT: int [M, B, T].
            labels_MBT: int [M, B, T], the token that follows each.
            noise: the source of this model's dropout masks; None drops nothing.

        Returns:
            The cross-entropy of the labels and KL(model || other) at each position, both float32
            [M, B, T] in nats, laid out as by `laid`.
        """
        settings = self._loss_settings(tokens_MBT, 0.0)
        positions = self._document_positions(tokens_MBT)
        model, reference = self._outer_modules(params), other._outer_modules(other_params)
        y_MBTD = other._hidden(reference, other_params, tokens_MBT, positions).x_MBTD
        ours, theirs = self._unembedding(model), other._unembedding(reference)
        y_MBTD, theirs = jax.lax.stop_gradient((y_MBTD, theirs))
        tokens_MBT, y_MBTD = jax.lax.optimization_barrier((tokens_MBT, y_MBTD))  # one at a time
        x_MBTD = self._hidden(model, params, tokens_MBT, positions, noise).x_MBTD
        losses = label_losses(x_MBTD, ours, self.laid(labels_MBT), settings)
        return losses, divergences(x_MBTD, ours, y_MBTD, theirs, settings)

    def _loss_settings(self, tokens_MBT: jax.Array, z_loss: float) -> LossSettings:
        """Decide how the losses of the tokens are computed."""
        micro, batch, length = tokens_MBT.shape
        spread, layout = self.layout.spread(micro), self.layout
        logits = micro * batch * self.cfg.vocab_size // layout.parts(spread, "batch", "vocab")
        chunk = chunk_length(length // layout.parts("length"), logits)
        dtype = jnp.dtype("float32" if self.loss_fp32 else self.compute)
        return LossSettings(layout, z_loss, chunk, dtype, spread)

    def _unembedding(self, model: NeoX) -> Unembedding:
        """Return the matrix to logits as it is stored; a tied model's is its embedding, transposed.

        Raises:
            UserError: it is a reward model, which has none.
        """
        if model.unembed is None:
            raise UserError(NO_LOGITS)
        weight, bias = model.unembed.weight, model.unembed.bias
        weight_DV = model.embed.tokens[...].T if weight is None else weight[...]
        bias_V = None if bias is None else bias[...]
        bias_V = hide_added(bias_V, self.cfg.vocab_size, self.layout)
        return Unembedding(weight_DV.astype(self.compute), bias_V)
