"""The forward pass from tokens to the last hidden states."""
# M micro-batches (all that pass a pipeline together, else 1), B batch, T length, D hidden,
# V padded vocabulary, k layers

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxneox.config.optimization_schema import Dtype
from jaxneox.config.schema import ModelConfig, RematConfig
from jaxneox.errors import UserError
from jaxneox.model.context import Context, TokenPositions
from jaxneox.model.documents import Documents
from jaxneox.model.dropout import Noise, dropout
from jaxneox.model.embed import Embed
from jaxneox.model.gather import gather_all
from jaxneox.model.layout import Axes, Layout
from jaxneox.model.parameters import Declaration, NeoX, Params, split_layers
from jaxneox.model.positions import RelativeBias
from jaxneox.model.remat import NO_REMAT, rematerialized
from jaxneox.model.scan import Layer, Numbered, scan_layers
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
class HiddenStates:
    """The layers of one configuration, laid out for one mesh. It holds no arrays.

    Attributes:
        cfg: the architecture.
        layout: how arrays lie on the devices.
        compute: the dtype of activations, and of weights in products.
        remat: what the backward pass computes again.
        documents: how training keeps the documents of a row apart; None if a row is one text.
    """

    cfg: ModelConfig
    layout: Layout
    compute: Dtype = "float32"
    remat: RematConfig = NO_REMAT
    documents: Documents | None = None

    @cached_property
    def declaration(self) -> Declaration:
        """The modules and parameters that the configuration declares."""
        return Declaration(self.cfg)

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The logical axes of every parameter by name."""
        return self.declaration.axes

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter by name."""
        return self.declaration.shapes

    def init(self, key: jax.Array) -> Params:
        """Draw the initial parameters, float32: the same numbers on every mesh."""
        return self.declaration.init(key)

    def matmuls(self) -> AbstractContextManager[Any]:
        """Set the precision of products for whatever is traced inside.

        float32 then means float32, also on devices that would round the factors of its products
        (TF32, bfloat16 passes).
        """
        return jax.default_matmul_precision("highest" if self.compute == "float32" else "default")

    def _hidden(
        self,
        model: NeoX,
        params: Params,
        tokens_MBT: jax.Array,
        positions: TokenPositions,
        noise: Noise | None = None,
        taps: Taps = NOTHING,
    ) -> tuple[jax.Array, Kept]:
        """Compute [M, B, T, D] after the final norm, and what is kept of the layers by tap.

        Positions are in the layout's order.
        """
        if noise is not None:
            noise = noise._replace(positions=positions.order_T)
        x_MBTD = self._embed(model.embed, self.laid(tokens_MBT), positions.encoded)
        x_MBTD = dropout(x_MBTD, self.cfg.hidden_dropout, noise and noise.at(0))
        bias = self._score_bias(model.embed, positions.order_T)
        context = Context(positions, self.layout, bias, noise, taps)
        x_MBTD, kept = self.run_layers(params, x_MBTD, context)
        spread = self.layout.spread(tokens_MBT.shape[0])
        whole = self.layout.activation(spread, "batch", "length", "embed")
        x_MBTD = model.normed(jax.reshard(x_MBTD, self._stream(spread)))
        return jax.reshard(x_MBTD, whole), kept

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
        x_MBTD, kept = self._hidden(model, params, tokens_MBT, positions, noise, taps)
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

    def run_layers(
        self, params: Params, x_MBTD: jax.Array, context: Context
    ) -> tuple[jax.Array, Kept]:
        """Run the residual stream [M, B, T, D] through all layers.

        They are scanned at once, or by each stage of a pipeline its own. The arrays of `context`
        that differ from row to row have a leading axis M.

        Returns:
            The stream, and what is kept by tap: [k, *], of k layers.
        """
        layers, noise = split_layers(params)[1], context.noise
        of_rows = None if noise is None else noise.rows, context.positions.per_row

        def run(
            x_BTD: jax.Array, weights: Params, first: int | jax.Array, of_rows: Any
        ) -> tuple[jax.Array, Kept]:
            """Run the k layers of these weights, the first of which has this number.

            The weights are rounded before the scan, which XLA does in any case. So the scan stacks
            their gradients as they come, rounded, and they become float32 where they are added up.
            """
            rounded = {name: w.astype(self.compute) for name, w in weights.items()}
            rows_B, per_row = of_rows
            numbers_k = first + jnp.arange(_length(weights), dtype=jnp.int32)
            own = context._replace(
                positions=TokenPositions(context.positions.order_T, *per_row),
                noise=None if noise is None else noise._replace(rows=rows_B),
            )
            layer = self._layer(own)
            return scan_layers(layer, x_BTD, (numbers_k, rounded), context.taps)

        if self.layout.pipeline is not None:
            if context.taps != NOTHING:
                raise ValueError("the layers of a pipeline keep no activations")
            x_MBTD = jax.reshard(x_MBTD, self._stream(None))
            return self.layout.pipeline(lambda *a: run(*a)[0], layers, x_MBTD, of_rows), {}
        if x_MBTD.shape[0] != 1:
            raise ValueError(f"{x_MBTD.shape[0]} micro-batches, expected 1 without a pipeline")
        x_BTD, kept = run(x_MBTD[0], layers, 0, jax.tree.map(lambda x: x[0], of_rows))
        return x_BTD[None], kept

    def _layer(self, context: Context) -> Layer:
        def layer(x_BTD: jax.Array, numbered: Numbered) -> tuple[jax.Array, Kept]:
            number, weights = numbered
            recorder = context.taps.recorder()
            own = context.at(1 + number)._replace(recorder=recorder)
            whole = gather_all(weights, self.axes, self.layout, in_layer=True)
            block = self.declaration.part("layers", whole)
            return block(x_BTD, own), recorder.recorded

        return rematerialized(layer, self.remat)

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

    def _stream(self, micro: str | None) -> PartitionSpec:
        return self.layout.activation(micro, "batch", "stream", "embed")

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


def _length(weights: Params) -> int:
    return next(iter(weights.values())).shape[0]
