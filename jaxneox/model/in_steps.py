"""The forward pass in steps, for who has room for the weights of one layer at a time."""
# M micro-batches (1), B batch, T length, D hidden, V padded vocabulary

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxneox.config.layer_schema import LayerKind
from jaxneox.model.context import Context
from jaxneox.model.loss import project
from jaxneox.model.neox import Model
from jaxneox.model.parameters import NeoX, Params

F32 = jnp.dtype("float32")


@dataclass(frozen=True)
class ModelInSteps(Model):
    """The model's own embedding, layers and head, called one after another.

    `end` of what `through` makes of `begin`, layer by layer, is `logits` or `text_values` of texts,
    whose layers one scan runs through: the same operations of the same modules. It is for one
    device.
    """

    def begin(self, outer: Params, tokens_BT: jax.Array) -> jax.Array:
        """Embed tokens: int [B, T] -> [M, B, T, D].

        Args:
            outer: the parameters outside the layers.
            tokens_BT: int [B, T], rows that are one text each.
        """
        with self.matmuls():
            positions = self._text_positions(tokens_BT[None])
            embed = self._outside(outer).embed
            return self._embed(embed, tokens_BT[None], positions.encoded)

    def through(
        self, outer: Params, layer: Params, x_MBTD: jax.Array, kind: LayerKind
    ) -> jax.Array:
        """Run the stream [M, B, T, D] through one layer of a kind; its weights are not stacked."""
        with self.matmuls():
            positions = self._text_positions(x_MBTD[..., 0])
            bias = self._score_bias(self._outside(outer).embed, positions.order_T)
            context = Context(positions, self.layout, bias)
            rounded = self.declaration.rounded(layer, self.compute)
            return self._layer(kind, context)(x_MBTD[0], (jnp.int32(0), rounded)).x_BTD[None]

    def end(self, outer: Params, x_MBTD: jax.Array) -> jax.Array:
        """Turn the stream after all layers into logits, float32 [B, T, V]; or values, [B, T]."""
        with self.matmuls():
            modules = self._outside(outer)
            x_BTD = modules.normed(x_MBTD)[0]
            if modules.reward is not None:
                return modules.reward(x_BTD)
            return self._without_added(project(x_BTD, self._unembedding(modules), F32))

    def _outside(self, outer: Params) -> NeoX:
        """Build the modules outside the layers; those of the layers hold nothing."""
        empty = {name: jnp.zeros(0) for name in self.shapes if name not in outer}
        return self._outer_modules(outer | empty)
