"""The whole model: logits, scores and losses, as functions of a flat dictionary of parameters."""
# M micro-batches (all that pass a pipeline together, else 1), B batch, T length, D hidden,
# V padded vocabulary, C positions that are scored

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxneox.errors import UserError
from jaxneox.model.dropout import Noise
from jaxneox.model.hidden import InTraining
from jaxneox.model.losses import Losses
from jaxneox.model.parameters import NeoX, Params, Reward
from jaxneox.model.scores import hidden_at, scores
from jaxneox.model.taps import NOTHING, Kept, Taps
from jaxneox.model.token_losses import token_losses
from jaxneox.model.unembedding import gathered, project
from jaxneox.model.vocabulary import added_rows

NO_VALUES = (
    "the checkpoint is not a reward model, and gives no rewards; `train_impl: rm` makes one of it"
)


@dataclass(frozen=True)
class Model(Losses):
    """The functions of one configuration, laid out for one mesh. It holds no arrays."""

    def logits(
        self,
        params: Params,
        tokens_BT: jax.Array,
        training: InTraining | None = None,
    ) -> jax.Array:
        """Compute next-token logits.

        Args:
            params: parameters by dotted name.
            tokens_BT: int [B, T]; T is at most the model's context.
            training: what is different in training; None for texts.

        Returns:
            float32 [B, T, V].
        """
        return self.trace(params, tokens_BT, NOTHING, training)[0]

    def trace(
        self,
        params: Params,
        tokens_BT: jax.Array,
        taps: Taps,
        training: InTraining | None = None,
    ) -> tuple[jax.Array, Kept]:
        """Compute next-token logits, and keep activations on the way.

        Args:
            params: parameters by dotted name.
            tokens_BT: int [B, T]; T is at most the model's context.
            taps: which activations.
            training: what is different in training; None for texts.

        Returns:
            The logits, float32 [B, T, V]; and the activations by their public names, in `compute`
            and laid out as in the layers, positions in the order of the text.

        Raises:
            ValueError: activations of layers in a pipeline are asked for.
        """
        with self.matmuls():
            model = self._outer_modules(params)
            x_BTD, kept = self._rows(model, params, tokens_BT, training, taps)
            unembedding = gathered(self._unembedding(model), self.layout)
            logits_BTV = project(x_BTD, unembedding, jnp.dtype("float32"))
            return self._without_added(logits_BTV), kept

    def scores(
        self, params: Params, tokens_BT: jax.Array, positions_BC: jax.Array, labels_BC: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Compute how likely given labels are, each after the token at its position.

        Logits are made for the C positions only; a row is one text.

        Args:
            params: parameters by dotted name.
            tokens_BT: int [B, T].
            positions_BC: int [B, C], positions in the rows.
            labels_BC: int [B, C], the token that is scored at each.

        Returns:
            The log-probabilities over the padded vocabulary, float32 [B, C], and whether each label
            is the likeliest, bool [B, C].
        """
        with self.matmuls():
            model = self._outer_modules(params)
            x_BTD, _ = self._rows(model, params, tokens_BT)
            unembedding = self._unembedding(model)
            return scores(x_BTD, unembedding, positions_BC, labels_BC, self.layout)

    def token_losses(
        self,
        params: Params,
        tokens_BT: jax.Array,
        training: InTraining | None = None,
    ) -> jax.Array:
        """Compute how unlikely each token is after those before it.

        Args:
            params: parameters by dotted name.
            tokens_BT: int [B, T + 1].
            training: what is different in training; None for texts.

        Returns:
            The cross-entropy of every token but the first, float32 [B, T] in nats.
        """
        with self.matmuls():
            model = self._outer_modules(params)
            x_BTD, _ = self._rows(model, params, tokens_BT[:, :-1], training)
            labels_BT = jax.reshard(tokens_BT[:, 1:], self.layout.activation("batch", None))
            return token_losses(x_BTD, self._unembedding(model), labels_BT, self.layout)

    def values(
        self,
        params: Params,
        tokens_MBT: jax.Array,
        noise: Noise | None = None,
        documents_MBT: jax.Array | None = None,
    ) -> jax.Array:
        """Compute a reward model's value after each token.

        Args:
            params: parameters by dotted name.
            tokens_MBT: int [M, B, T].
            noise: the source of the dropout masks; None drops nothing.
            documents_MBT: int [M, B, T], each token's document, if the data says it.

        Returns:
            float32 [M, B, T], laid out as `laid` lays a mask of the same tokens. A position's value
            depends on the tokens up to it.

        Raises:
            UserError: it is no reward model.
        """
        model = self._outer_modules(params)
        reward = self._reward(model)
        positions = self._document_positions(tokens_MBT, documents_MBT)
        x_MBTD = self._hidden(model, params, tokens_MBT, positions, noise).x_MBTD
        return reward(x_MBTD)

    def text_values(self, params: Params, tokens_BT: jax.Array) -> jax.Array:
        """Compute a reward model's value after each token of rows that are one text each.

        Args:
            params: parameters by dotted name.
            tokens_BT: int [B, T].

        Returns:
            float32 [B, T], positions in the order of the text.

        Raises:
            UserError: it is no reward model.
        """
        with self.matmuls():
            model = self._outer_modules(params)
            return self._reward(model)(self._rows(model, params, tokens_BT)[0])

    def values_at(self, params: Params, tokens_BT: jax.Array, positions_BC: jax.Array) -> jax.Array:
        """Compute a reward model's values after the tokens at given positions, float32 [B, C].

        Args:
            params: parameters by dotted name.
            tokens_BT: int [B, T], rows that are one text each.
            positions_BC: int [B, C], positions in the rows.

        Raises:
            UserError: it is no reward model.
        """
        with self.matmuls():
            model = self._outer_modules(params)
            x_BTD, _ = self._rows(model, params, tokens_BT)
            positions_BC = jax.reshard(positions_BC, self.layout.activation("batch", None))
            return self._reward(model)(hidden_at(x_BTD, positions_BC, self.layout))

    def _reward(self, model: NeoX) -> Reward:
        if model.reward is None:
            raise UserError(NO_VALUES)
        return model.reward

    def _without_added(self, logits_BTV: jax.Array) -> jax.Array:
        """Leave out the logits of rows that were added for the devices."""
        if not added_rows(self.cfg.vocab_size, self.layout):
            return logits_BTV
        whole = jax.reshard(logits_BTV, self.layout.activation("batch", None, None))
        return whole[..., : self.cfg.vocab_size]
