"""The interface of every checkpoint's forward pass: layer by layer, in float64."""
# R model-parallel ranks, B batch, T length, D hidden, V padded vocabulary

from typing import Protocol

import numpy as np

from convert.oracle.maths import Array


class Forward(Protocol):
    """A model whose ranks each carry a residual stream of their own.

    The streams are identical as long as the ranks' replicas of shared tensors are. With replicas
    that drifted apart they may differ, as they did in the run. A layer's tensors are read when it
    is computed and released after it, so that a model needs the memory of its largest matrix.
    """

    layers: int
    hidden: int
    vocab: int  # padded

    def embed(self, tokens_BT: np.ndarray) -> Array:
        """Embed int tokens [B, T] as streams [R, B, T, D]."""
        ...

    def layer(self, index: int, streams_RBTD: Array) -> Array:
        """Apply layer `index`, counted from 0, to streams [R, B, T, D]."""
        ...

    def logits(self, streams_RBTD: Array) -> Array:
        """Apply the final norm and the unembedding: streams [R, B, T, D] to logits [B, T, V].

        Of a reward model they are its values, [B, T, 1].
        """
        ...


def run(forward: Forward, tokens_BT: np.ndarray) -> Array:
    """Compute the logits [B, T, V] of int tokens [B, T]."""
    streams_RBTD = forward.embed(tokens_BT)
    for index in range(forward.layers):
        streams_RBTD = forward.layer(index, streams_RBTD)
    return forward.logits(streams_RBTD)
