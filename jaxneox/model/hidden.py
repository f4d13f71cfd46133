"""The forward pass from tokens to the last hidden states."""
# M micro-batches (all that pass a pipeline together, else 1), B batch, T length, D hidden,
# V padded vocabulary, k layers

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxneox.errors import UserError
from jaxneox.model.context import Context, TokenPositions
from jaxneox.model.documents import Documents
from jaxneox.model.dropout import Noise, dropout
from jaxneox.model.embed import Embed
from jaxneox.model.gather import gather_all
from jaxneox.model.layers import Layers, Stream
from jaxneox.model.layout import Axes
from jaxneox.model.parameters import NeoX, Params, split_layers
from jaxneox.model.positions import RelativeBias
from jaxneox.model.taps import LAYER_TAPS, NOTHING, Kept, Taps

POSITIONS = ("length", "stream")
"""The logical axes along which the layout orders positions."""


class InTraining(NamedTuple):
    """What a forward pass has in training besides parameters and tokens.

    Without it nothing is dropped, and a row is one text.

    Attributes:
        noise: the source of the dropout masks, its rows [1, B]; None drops nothing.
        documents: int32 [B, T], each token's document, if the data says it.
    """

    noise: Noise | None = None
    documents: jax.Array | None = None


@dataclass(frozen=True)
class HiddenStates(Layers):
    """The model up to its last hidden states, laid out for one mesh. It holds no arrays.

    Attributes:
        documents: how training keeps the documents of a row apart; None if a row is one text.
    """

    documents: Documents | None = None

    def _hidden(
        self,
        model: NeoX,
        params: Params,
        tokens_MBT: jax.Array,
        positions: TokenPositions,
        noise: Noise | None = None,
        taps: Taps = NOTHING,
        row_weights_MB: jax.Array | None = None,
    ) -> Stream:
        """Compute the stream after the final norm, its positions in the layout's order.

        What rows weigh in the training loss is asked for where the layers' sums are.
        """
        if noise is not None:
            noise = noise._replace(positions=positions.order_T)
        x_MBTD = self._embed(model.embed, self.laid(tokens_MBT), positions.encoded)
        x_MBTD = dropout(x_MBTD, self.cfg.hidden_dropout, noise and noise.at(0))
        bias = self._score_bias(model.embed, positions.order_T)
        context = Context(positions, self.layout, bias, noise, taps, row_weights=row_weights_MB)
        stream = self.run_layers(params, x_MBTD, context)
        spread = self.layout.spread(tokens_MBT.shape[0])
        whole = self.layout.activation(spread, "batch", "length", "embed")
        x_MBTD = model.normed(jax.reshard(stream.x_MBTD, self._stream(spread)))
        return stream._replace(x_MBTD=jax.reshard(x_MBTD, whole))

    def _rows(
        self,
        model: NeoX,
        params: Params,
        tokens_BT: jax.Array,
        training: InTraining | None = None,
        taps: Taps = NOTHING,
    ) -> tuple[jax.Array, Kept]:
        """Compute [B, T, D] after the final norm, and what is kept by its public names.

        The positions are in their order; those of [B, T, D] on every device that has some of them.
        """
        tokens_MBT, noise = tokens_BT[None], None
        if training is None:
            positions = self._text_positions(tokens_MBT)
        else:
            noise, documents_BT = training
            documents_MBT = None if documents_BT is None else documents_BT[None]
            positions = self._document_positions(tokens_MBT, documents_MBT)
        x_MBTD, kept, _ = self._hidden(model, params, tokens_MBT, positions, noise, taps)
        x_BTD = jax.reshard(x_MBTD[0], self.layout.activation("batch", None, "embed"))
        x_BTD = self._in_order(x_BTD, ("batch", "length", "embed"))
        kept = {n: self._in_order(x, (None, *LAYER_TAPS[n].axes)) for n, x in kept.items()}
        return x_BTD, taps.named(kept)

    def _in_order(self, x: jax.Array, axes: Axes) -> jax.Array:
        """Put positions that the layout has in an order of its own back in theirs, unsplit."""
        if self.layout.rings is None:
            return x
        places = [i for i, axis in enumerate(axes) if axis in POSITIONS]
        whole = [None if i in places else axis for i, axis in enumerate(axes)]
        x = jax.reshard(x, self.layout.activation(*whole))
        for place in places:
            x = x[(slice(None),) * place + (np.argsort(self.layout.order(x.shape[place])),)]
        return x

    def _embed(self, embed: Embed, tokens_MBT: jax.Array, positions: jax.Array) -> jax.Array:
        spread = self.layout.spread(tokens_MBT.shape[0])
        spec = self.layout.activation(spread, "batch", "length", "embed")
        x_MBTD = embed(tokens_MBT, positions, spec, jnp.dtype(self.compute))
        return jax.reshard(x_MBTD, self._stream(spread))

    def _score_bias(self, embed: Embed, order_T: jax.Array) -> jax.Array | None:
        if embed.rpe is None:
            return None
        relative = RelativeBias(self.cfg.positions, self.cfg.attention.head_dim)
        return relative(embed.rpe[...], order_T, order_T)

    def _text_positions(self, tokens: jax.Array) -> TokenPositions:
        """Count the positions of rows [*, T] that are one text each."""
        return TokenPositions(jnp.asarray(self.layout.order(tokens.shape[-1])))

    def _document_positions(
        self, tokens_MBT: jax.Array, documents_MBT: jax.Array | None = None
    ) -> TokenPositions:
        """Count the positions of whole rows, then lay them out as their tokens."""
        positions = self._text_positions(tokens_MBT)
        if self.documents is None:
            return positions
        if self.documents.eod is None and documents_MBT is None:
            raise UserError("separate_documents: a batch has no field `documents`")
        spread = self.layout.spread(tokens_MBT.shape[0])
        given = [tokens_MBT] if documents_MBT is None else [tokens_MBT, documents_MBT]
        whole = self.layout.activation(spread, "batch", None)
        per_row = self.documents(*(jax.reshard(x_MBT, whole) for x_MBT in given))
        return TokenPositions(positions.order_T, *jax.tree.map(self.laid, per_row))

    def laid(self, x_MBT: jax.Array) -> jax.Array:
        """Lay out what belongs to the tokens, in the order and on the devices of their positions.

        Losses and values of tokens lie so inside of this class and in what `values` returns: a
        mask or labels of the same tokens are laid out by this before they meet them.

        Args:
            x_MBT: [M, B, T], positions in the order of the text.

        Returns:
            [M, B, T]. The micro-batches and positions may be split over devices, and with ring
            attention the positions are in another order. Sums over them are what they were.
        """
        layout, (micro, _, length) = self.layout, x_MBT.shape
        spread = layout.spread(micro)
        x_MBT = jax.reshard(x_MBT, layout.activation(spread, "batch", None))
        if layout.rings is not None:
            x_MBT = x_MBT[:, :, layout.order(length)]
        return jax.reshard(x_MBT, layout.activation(spread, "batch", "length"))

    def unlaid(self, x_MBT: jax.Array) -> jax.Array:
        """Put what is laid out as by `laid` back in the order of the text, as a batch lies."""
        layout, (micro, _, length) = self.layout, x_MBT.shape
        x_MBT = jax.reshard(x_MBT, layout.activation(layout.spread(micro), "batch", None))
        if layout.rings is not None:
            x_MBT = x_MBT[:, :, np.argsort(layout.order(length))]
        return jax.reshard(x_MBT, layout.activation(None, "batch", None))

    def _outer_modules(self, params: Params) -> NeoX:
        """Build the model with its weights outside the layers in float32, and whole.

        The two that are as large as the vocabulary stay as they are stored: the unembedding, and
        the table of tokens unless it is stored in parts of its vocabulary.
        """
        outer = split_layers(params)[0]
        exact = {name: w.astype(jnp.float32) for name, w in outer.items()}  # they may rest rounded
        others = {name: w for name, w in exact.items() if not self._stays(name, w)}
        whole = gather_all(others, self.axes, self.layout)
        return self.declaration.model(params | exact | whole)

    def _stays(self, name: str, w: jax.Array) -> bool:
        """Tell whether a weight outside the layers is used as it is stored."""
        if name == "embed.tokens":
            vocab = jax.typeof(w).sharding.spec.partitions[0]
            return vocab in (None, self.layout.weight("vocab")[0])
        return name == "unembed.weight"
