"""The context that all layers of a forward pass share: positions, layout, dropout and taps."""
# B batch, T length; * any axes before the length
# K key-value heads, G query heads for each of them, S key length

from typing import NamedTuple

import jax

from jaxneox.model.dropout import Noise
from jaxneox.model.layout import Layout
from jaxneox.model.taps import NOTHING, Recorder, Taps


class TokenPositions(NamedTuple):
    """The positions of a batch's tokens, in the layout's order of a sequence.

    Attributes:
        order_T: int32 [T], counted over the whole row: which tokens precede which, and how far. In
            decoding, where each row is at a position of its own, [B, T].
        reset: int32 [*, T], counted anew in each document, for embeddings and rotations; None if
            they count over the whole row as well.
        documents: int32 [*, T], the number of each token's document, which sees no other; None if a
            row is one text.
    """

    order_T: jax.Array
    reset: jax.Array | None = None
    documents: jax.Array | None = None

    @property
    def encoded(self) -> jax.Array:
        """The positions that embeddings and rotations encode: [T] or [*, T]."""
        return self.order_T if self.reset is None else self.reset

    @property
    def per_row(self) -> tuple[jax.Array | None, jax.Array | None]:
        """The arrays that differ from row to row, to be split as the batch is."""
        return self.reset, self.documents


Sums = dict[str, jax.Array]
"""What a layer adds up over its tokens by name, float32, the same on all devices.

Such numbers add up exactly over micro-batches, however a mesh cuts them.
"""


class Context(NamedTuple):
    """All that a layer knows besides its weights and the residual stream.

    Attributes:
        positions: where the tokens stand.
        layout: how arrays lie on the devices.
        score_bias: float32 [1, K, G, T, S], added to the attention scores of every layer (`rpe`).
        noise: the source of this layer's dropout masks; None if nothing is dropped.
        taps: what is wanted of the layers' activations.
        recorder: what collects those of this layer; None outside of layers.
        row_weights: float32 [B], what a row counts in the training loss; None outside of it.
    """

    positions: TokenPositions
    layout: Layout
    score_bias: jax.Array | None = None
    noise: Noise | None = None
    taps: Taps = NOTHING
    recorder: Recorder | None = None
    row_weights: jax.Array | None = None

    def at(self, place: int | jax.Array) -> "Context":
        """The context with the dropout masks of one place inside the present one."""
        return self if self.noise is None else self._replace(noise=self.noise.at(place))

    def tap(self, name: str, x: jax.Array) -> jax.Array:
        """Give an activation of this layer its name, one of `LAYER_TAPS`, and return it."""
        return x if self.recorder is None else self.recorder(name, x)
